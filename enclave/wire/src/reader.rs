//! Strict reading of core-deterministic CBOR (RFC 8949 section 4.2.1).
//!
//! Refused: indefinite lengths, integers and lengths that are not the shortest, keys that are not exactly the expected
//! ones in their order, floats, tags, simple values other than `false`, `true` and `null`, invalid UTF-8, and bytes behind
//! the end. Every length is compared with its limit, and with what is left of the input, before anything is allocated.

use alloc::format;

use minicbor::data::Type;
use minicbor::decode::Decoder;

use crate::{Code, Error};

/// Reads one deterministic value, front to back, borrowing from the input.
#[derive(Debug)]
pub struct Reader<'a> {
    decoder: Decoder<'a>,
}

fn malformed(field: &str, expected: &str) -> Error {
    Error::new(
        Code::MalformedMessage,
        format!("{field}: expected {expected}"),
    )
}

/// Bytes of the head (initial byte and argument) of the shortest encoding of `value`.
const fn head_bytes(value: u64) -> usize {
    match value {
        0..=23 => 1,
        24..=0xff => 2,
        0x100..=0xffff => 3,
        0x1_0000..=0xffff_ffff => 5,
        _ => 9,
    }
}

impl<'a> Reader<'a> {
    /// Starts to read `input`.
    #[must_use]
    pub fn new(input: &'a [u8]) -> Self {
        Self {
            decoder: Decoder::new(input),
        }
    }

    /// Checks that everything was read.
    ///
    /// # Errors
    /// `malformed_message` for trailing bytes.
    pub fn finish(self) -> Result<(), Error> {
        if self.decoder.position() == self.decoder.input().len() {
            Ok(())
        } else {
            Err(Error::new(Code::MalformedMessage, "trailing bytes"))
        }
    }

    fn head(
        &mut self,
        field: &str,
        expected: &str,
        read: impl FnOnce(&mut Decoder<'a>) -> Option<u64>,
    ) -> Result<u64, Error> {
        let start = self.decoder.position();
        let value = read(&mut self.decoder).ok_or_else(|| malformed(field, expected))?;
        if self.decoder.position() - start == head_bytes(value) {
            Ok(value)
        } else {
            Err(malformed(field, "the shortest form of its length or value"))
        }
    }

    /// An unsigned integer.
    ///
    /// # Errors
    /// `malformed_message`.
    pub fn uint(&mut self, field: &str) -> Result<u64, Error> {
        self.head(field, "an unsigned integer", |d| d.u64().ok())
    }

    /// An unsigned integer from `least` to `most`.
    ///
    /// # Errors
    /// `malformed_message`.
    pub fn uint_within(&mut self, field: &str, least: u64, most: u64) -> Result<u64, Error> {
        let value = self.uint(field)?;
        if (least..=most).contains(&value) {
            Ok(value)
        } else {
            Err(malformed(field, &format!("{least} to {most}, got {value}")))
        }
    }

    /// An array with `least` to `most` items; answers how many.
    ///
    /// # Errors
    /// `malformed_message`.
    pub fn array(&mut self, field: &str, least: usize, most: usize) -> Result<usize, Error> {
        let count = self.head(field, "an array of definite length", |d| {
            d.array().ok().flatten()
        })?;
        match usize::try_from(count) {
            Ok(count) if (least..=most).contains(&count) => Ok(count),
            _ => Err(malformed(
                field,
                &format!("{least} to {most} items, got {count}"),
            )),
        }
    }

    /// The head of a map that has exactly as many entries as `keys`; each is then read by [`Reader::key`].
    ///
    /// # Errors
    /// `malformed_message`; `unknown_field` where there are more entries than this version knows.
    pub fn map(&mut self, field: &str, keys: &[&str]) -> Result<(), Error> {
        let count = self.head(field, "a map of definite length", |d| {
            d.map().ok().flatten()
        })?;
        let expected = keys.len() as u64;
        match count.cmp(&expected) {
            core::cmp::Ordering::Equal => Ok(()),
            core::cmp::Ordering::Less => Err(malformed(
                field,
                &format!("{expected} entries, got {count}"),
            )),
            core::cmp::Ordering::Greater => Err(Error::new(
                Code::UnknownField,
                format!("{field}: expected {expected} entries, got {count}"),
            )),
        }
    }

    /// The next key of a map, which must be `expected`: keys are sorted and none is optional, so their order is fixed.
    ///
    /// # Errors
    /// `unknown_field` for a key that is not among `keys`, `malformed_message` for one that is, but not at this place.
    pub fn key(&mut self, expected: &str, keys: &[&str]) -> Result<(), Error> {
        let got = self.text(expected, 0, 64)?;
        if got == expected {
            Ok(())
        } else if keys.contains(&got) {
            Err(malformed(expected, "this key here (sorted, once each)"))
        } else {
            Err(Error::new(
                Code::UnknownField,
                format!("a key that is not known, where {expected} is expected"),
            ))
        }
    }

    /// A byte string of `least` to `most` bytes.
    ///
    /// # Errors
    /// `malformed_message`; `oversized_message` above `most`.
    pub fn bytes(&mut self, field: &str, least: usize, most: usize) -> Result<&'a [u8], Error> {
        let start = self.decoder.position();
        let value = self
            .decoder
            .bytes()
            .map_err(|_| malformed(field, "a byte string of definite length"))?;
        self.sized(field, start, value.len(), least, most)?;
        Ok(value)
    }

    /// A byte string of exactly `N` bytes.
    ///
    /// # Errors
    /// `malformed_message`.
    pub fn fixed<const N: usize>(&mut self, field: &str) -> Result<&'a [u8; N], Error> {
        let value = self.bytes(field, 0, usize::MAX)?;
        <&[u8; N]>::try_from(value)
            .map_err(|_| malformed(field, &format!("{N} bytes, got {}", value.len())))
    }

    /// A text of `least` to `most` bytes.
    ///
    /// # Errors
    /// `malformed_message`; `oversized_message` above `most`.
    pub fn text(&mut self, field: &str, least: usize, most: usize) -> Result<&'a str, Error> {
        let start = self.decoder.position();
        let value = self
            .decoder
            .str()
            .map_err(|_| malformed(field, "a text of definite length"))?;
        self.sized(field, start, value.len(), least, most)?;
        Ok(value)
    }

    fn sized(
        &self,
        field: &str,
        start: usize,
        size: usize,
        least: usize,
        most: usize,
    ) -> Result<(), Error> {
        if self.decoder.position() - start != head_bytes(size as u64) + size {
            return Err(malformed(field, "the shortest form of its length or value"));
        }
        if size > most {
            return Err(Error::new(
                Code::OversizedMessage,
                format!("{field}: expected at most {most} bytes, got {size}"),
            ));
        }
        if size < least {
            return Err(malformed(
                field,
                &format!("at least {least} bytes, got {size}"),
            ));
        }
        Ok(())
    }

    /// A text that must be `expected`.
    ///
    /// # Errors
    /// `malformed_message`.
    pub fn constant(&mut self, field: &str, expected: &str) -> Result<(), Error> {
        if self.text(field, 0, expected.len())? == expected {
            Ok(())
        } else {
            Err(malformed(field, expected))
        }
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// `malformed_message`.
    pub fn bool(&mut self, field: &str) -> Result<bool, Error> {
        self.decoder
            .bool()
            .map_err(|_| malformed(field, "true or false"))
    }

    /// Whether the next value is `null`, which is then read.
    pub fn nil(&mut self) -> bool {
        matches!(self.decoder.datatype(), Ok(Type::Null)) && self.decoder.null().is_ok()
    }

    /// A byte string of exactly `N` bytes, or `null`.
    ///
    /// # Errors
    /// `malformed_message`.
    pub fn fixed_or_nil<const N: usize>(
        &mut self,
        field: &str,
    ) -> Result<Option<&'a [u8; N]>, Error> {
        if self.nil() {
            Ok(None)
        } else {
            self.fixed(field).map(Some)
        }
    }

    /// A byte string of `least` to `most` bytes, or `null`.
    ///
    /// # Errors
    /// As [`Reader::bytes`].
    pub fn bytes_or_nil(
        &mut self,
        field: &str,
        least: usize,
        most: usize,
    ) -> Result<Option<&'a [u8]>, Error> {
        if self.nil() {
            Ok(None)
        } else {
            self.bytes(field, least, most).map(Some)
        }
    }
}
