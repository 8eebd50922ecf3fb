//! The one thing the loader reads of the manifest: the target that the image was built for.

use crate::refusal::Refusal;

/// Deepest nesting that is followed.
const DEPTH_LIMIT: u32 = 32;

/// A cursor over deterministic CBOR (RFC 8949): definite lengths only, floats allowed, tags refused.
struct Cursor<'a> {
    rest: &'a [u8],
}

/// Major type and argument of an item's head.
type Head = (u8, u64);

impl<'a> Cursor<'a> {
    fn bytes(&mut self, length: u64) -> Result<&'a [u8], Refusal> {
        let cut = usize::try_from(length).ok().and_then(|length| self.rest.split_at_checked(length));
        let (taken, rest) = cut.ok_or_else(|| {
            Refusal::malformed(format!("the manifest ends early: {length} bytes wanted, {} there", self.rest.len()))
        })?;
        self.rest = rest;
        Ok(taken)
    }

    fn head(&mut self) -> Result<Head, Refusal> {
        let first = self.bytes(1)?.first().copied().unwrap_or_default();
        let (major, minor) = (first >> 5, first & 31);
        let extra = match minor {
            0..=23 => return Ok((major, minor.into())),
            24..=27 => 1 << (minor - 24),
            _ => return Err(Refusal::malformed("the manifest holds an item of indefinite length")),
        };
        let argument = self.bytes(extra)?.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
        Ok((major, argument))
    }

    fn skip(&mut self, depth: u32) -> Result<(), Refusal> {
        if depth > DEPTH_LIMIT {
            return Err(Refusal::malformed(format!("the manifest is nested deeper than {DEPTH_LIMIT}")));
        }
        let (major, argument) = self.head()?;
        let items = match major {
            0 | 1 | 7 => 0,
            2 | 3 => {
                self.bytes(argument)?;
                0
            }
            4 => argument,
            5 => argument.saturating_mul(2),
            _ => return Err(Refusal::malformed("the manifest holds a tag")),
        };
        for _ in 0..items {
            self.skip(depth + 1)?;
        }
        Ok(())
    }
}

/// The text under the key `target` of the manifest's top-level map.
///
/// # Errors
/// [`Reason::ImageMalformed`](crate::refusal::Reason::ImageMalformed): not CBOR, not a map, or no such text.
pub fn target(manifest: &[u8]) -> Result<&str, Refusal> {
    let mut cursor = Cursor { rest: manifest };
    let (5, entries) = cursor.head()? else {
        return Err(Refusal::malformed("the manifest is not a CBOR map"));
    };
    for _ in 0..entries {
        let (3, length) = cursor.head()? else {
            return Err(Refusal::malformed("a key of the manifest is not text"));
        };
        if cursor.bytes(length)? != b"target" {
            cursor.skip(1)?;
            continue;
        }
        let (3, length) = cursor.head()? else {
            return Err(Refusal::malformed("the manifest's target is not text"));
        };
        let text = std::str::from_utf8(cursor.bytes(length)?);
        return text.map_err(|_| Refusal::malformed("the manifest's target is not UTF-8"));
    }
    Err(Refusal::malformed("the manifest names no target"))
}

#[cfg(test)]
mod tests {
    use super::target;
    use crate::refusal::Reason;

    fn reason(manifest: &[u8]) -> Option<Reason> {
        target(manifest).err().map(|refusal| refusal.reason)
    }

    #[test]
    fn target_is_found_behind_values_of_every_kind() {
        let nested = b"\xa2\x61a\x85\x20\x41x\xa1\x61b\x01\xfb12345678\xf6\x66target\x69x86-64-v4";
        assert_eq!(target(nested), Ok("x86-64-v4"));
    }

    #[test]
    fn what_is_not_a_manifest_is_refused() {
        let cases: [&[u8]; 9] = [
            b"",
            b"\x80",
            b"\xa0",
            b"\xa1\x01\x02",
            b"\xa1\x66target\x01",
            b"\xa1\x66target\x69x86",
            b"\xa1\x66target\x61\xff",
            b"\xa1\x61a\xc1\x00",
            b"\xbf\x66target\x61x\xff",
        ];
        for case in cases {
            assert_eq!(reason(case), Some(Reason::ImageMalformed), "{case:?}");
        }
    }

    #[test]
    fn nesting_and_counts_are_bounded() {
        let mut deep = b"\xa1\x61a".to_vec();
        deep.extend([0x81; 100_000]);
        assert_eq!(reason(&deep), Some(Reason::ImageMalformed));
        assert_eq!(reason(b"\xa1\x61a\x9b\xff\xff\xff\xff\xff\xff\xff\xff"), Some(Reason::ImageMalformed));
        assert_eq!(reason(b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff"), Some(Reason::ImageMalformed));
    }
}
