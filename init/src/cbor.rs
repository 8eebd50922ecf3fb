//! Deterministic CBOR (RFC 8949, section 4.2), as far as evidence needs it. Writing only: nothing here reads.

/// Unsigned integer.
pub const UINT: u8 = 0;
/// Byte string.
pub const BYTES: u8 = 2;
/// Text string.
pub const TEXT: u8 = 3;
/// Array.
pub const ARRAY: u8 = 4;
/// Map.
pub const MAP: u8 = 5;

/// The head of an item: its major type with a number, in the shortest form.
pub fn head(out: &mut Vec<u8>, major: u8, number: usize) {
    let major = major << 5;
    match (u8::try_from(number), u16::try_from(number), u32::try_from(number)) {
        (Ok(small @ 0..24), _, _) => out.push(major | small),
        (Ok(byte), _, _) => out.extend([major | 24, byte]),
        (_, Ok(short), _) => {
            out.push(major | 25);
            out.extend(short.to_be_bytes());
        }
        (_, _, Ok(word)) => {
            out.push(major | 26);
            out.extend(word.to_be_bytes());
        }
        _ => {
            out.push(major | 27);
            out.extend((number as u64).to_be_bytes());
        }
    }
}

/// A byte string.
pub fn bytes(out: &mut Vec<u8>, value: &[u8]) {
    head(out, BYTES, value.len());
    out.extend(value);
}

/// A text string.
pub fn text(out: &mut Vec<u8>, value: &str) {
    head(out, TEXT, value.len());
    out.extend(value.as_bytes());
}

/// The envelope of evidence: a CMW record (RFC 9999).
pub fn cmw(media_type: &str, evidence: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(evidence.len() + 128);
    head(&mut out, ARRAY, 2);
    text(&mut out, media_type);
    bytes(&mut out, evidence);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_shortest() {
        for (number, expected) in [
            (0, &[0x40][..]),
            (23, &[0x57]),
            (24, &[0x58, 24]),
            (255, &[0x58, 255]),
            (256, &[0x59, 1, 0]),
            (65_535, &[0x59, 255, 255]),
            (65_536, &[0x5a, 0, 1, 0, 0]),
            (1 << 32, &[0x5b, 0, 0, 0, 1, 0, 0, 0, 0]),
        ] {
            let mut out = Vec::new();
            head(&mut out, BYTES, number);
            assert_eq!(out, expected, "{number}");
        }
        assert_eq!(cmw("a/b", &[7]), [0x82, 0x63, b'a', b'/', b'b', 0x41, 7]);
    }
}
