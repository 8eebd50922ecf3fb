//! Writing of core-deterministic CBOR (RFC 8949 section 4.2.1).

use alloc::vec::Vec;

use crate::digest::{Digest, sha256};

/// Writes one deterministic value, front to back. The caller gives map keys in their order: shorter first, then by bytes.
pub struct Writer {
    out: Vec<u8>,
}

impl Default for Writer {
    fn default() -> Self {
        Self::new()
    }
}

impl core::fmt::Debug for Writer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        // What is being written may be secret.
        write!(f, "Writer({} bytes)", self.out.len())
    }
}

/// Major types, RFC 8949 section 3.1.
const UINT: u8 = 0 << 5;
const BYTES: u8 = 2 << 5;
const TEXT: u8 = 3 << 5;
const ARRAY: u8 = 4 << 5;
const MAP: u8 = 5 << 5;
const FALSE: u8 = 0xf4;
const TRUE: u8 = 0xf5;
const NULL: u8 = 0xf6;

impl Writer {
    /// Starts with nothing written.
    #[must_use]
    pub fn new() -> Self {
        Self::with_capacity(256)
    }

    /// Starts with room for `bytes`, so that large or secret values are not copied while they grow.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self {
            out: Vec::with_capacity(bytes),
        }
    }

    /// Starts the array `[label, …]` with `fields` more items: what the protocol calls `info(label, fields…)`.
    #[must_use]
    pub fn info(label: &str, fields: usize) -> Self {
        Self::new().array(fields + 1).text(label)
    }

    /// The head of an array.
    #[must_use]
    pub fn array(self, items: usize) -> Self {
        self.head(ARRAY, items as u64)
    }

    /// The head of a map.
    #[must_use]
    pub fn map(self, entries: usize) -> Self {
        self.head(MAP, entries as u64)
    }

    /// A text.
    #[must_use]
    pub fn text(self, value: &str) -> Self {
        self.string(TEXT, value.as_bytes())
    }

    /// A byte string.
    #[must_use]
    pub fn bytes(self, value: &[u8]) -> Self {
        self.string(BYTES, value)
    }

    /// An unsigned integer.
    #[must_use]
    pub fn uint(self, value: u64) -> Self {
        self.head(UINT, value)
    }

    /// `true` or `false`.
    #[must_use]
    pub fn bool(mut self, value: bool) -> Self {
        self.out.push(if value { TRUE } else { FALSE });
        self
    }

    /// `null`.
    #[must_use]
    pub fn nil(mut self) -> Self {
        self.out.push(NULL);
        self
    }

    /// A byte string, or `null`.
    #[must_use]
    pub fn bytes_or_nil(self, value: Option<&[u8]>) -> Self {
        match value {
            Some(value) => self.bytes(value),
            None => self.nil(),
        }
    }

    /// The bytes written.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.out
    }

    /// SHA-256 of the bytes written.
    #[must_use]
    pub fn digest(self) -> Digest {
        sha256(&self.finish())
    }

    /// The initial byte and the shortest argument that holds `value`.
    fn head(mut self, major: u8, value: u64) -> Self {
        let bytes = value.to_be_bytes();
        let (info, argument) = match value {
            0..=23 => {
                self.out.push(major | bytes[7]);
                return self;
            }
            24..=0xff => (24, &bytes[7..]),
            0x100..=0xffff => (25, &bytes[6..]),
            0x1_0000..=0xffff_ffff => (26, &bytes[4..]),
            _ => (27, &bytes[..]),
        };
        self.out.push(major | info);
        self.out.extend_from_slice(argument);
        self
    }

    fn string(self, major: u8, value: &[u8]) -> Self {
        let mut writer = self.head(major, value.len() as u64);
        writer.out.extend_from_slice(value);
        writer
    }
}
