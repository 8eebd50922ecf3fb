//! Reads deterministic CBOR: definite lengths, shortest forms, float64 where a float is meant.

use minicbor::decode::Decoder;

use crate::PlanError;

pub(crate) struct Reader<'a>(Decoder<'a>);

type Result<T> = core::result::Result<T, PlanError>;

/// Bytes of the shortest head for `value`.
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
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(Decoder::new(bytes))
    }

    pub(crate) fn finish(self) -> Result<()> {
        if self.0.position() == self.0.input().len() {
            Ok(())
        } else {
            Err(PlanError::new("plan", "bytes behind the end"))
        }
    }

    fn head(
        &mut self,
        field: &'static str,
        expected: &'static str,
        read: impl FnOnce(&mut Decoder<'a>) -> Option<u64>,
    ) -> Result<u64> {
        let start = self.0.position();
        let value = read(&mut self.0).ok_or(PlanError::new(field, expected))?;
        if self.0.position() - start == head_bytes(value) {
            Ok(value)
        } else {
            Err(PlanError::new(field, "not in its shortest form"))
        }
    }

    /// An unsigned integer of at most `most`.
    pub(crate) fn uint(&mut self, field: &'static str, most: u64) -> Result<u64> {
        let value = self.head(field, "not an unsigned integer", |d| d.u64().ok())?;
        if value > most {
            return Err(PlanError::new(field, "larger than its limit"));
        }
        Ok(value)
    }

    /// An unsigned integer of at most `most`, as an index or size.
    pub(crate) fn size(&mut self, field: &'static str, most: usize) -> Result<usize> {
        usize::try_from(self.uint(field, most as u64)?)
            .map_err(|_| PlanError::new(field, "larger than its limit"))
    }

    /// An array's length, from `least` to `most`.
    pub(crate) fn array(
        &mut self,
        field: &'static str,
        least: usize,
        most: usize,
    ) -> Result<usize> {
        let count = self.head(field, "not an array of definite length", |d| {
            d.array().ok().flatten()
        })?;
        match usize::try_from(count) {
            Ok(count) if (least..=most).contains(&count) => Ok(count),
            _ => Err(PlanError::new(field, "too few or too many items")),
        }
    }

    /// A map's head; it has as many entries as `keys` and each is then read by [`Reader::key`].
    pub(crate) fn map(&mut self, field: &'static str, entries: u64) -> Result<()> {
        let count = self.head(field, "not a map of definite length", |d| {
            d.map().ok().flatten()
        })?;
        if count == entries {
            Ok(())
        } else {
            Err(PlanError::new(field, "a key is missing or not known"))
        }
    }

    /// The next key, which must be `key`.
    pub(crate) fn key(&mut self, key: &'static str) -> Result<()> {
        if self.text(key, key.len())? == key {
            Ok(())
        } else {
            Err(PlanError::new(key, "another key is in its place"))
        }
    }

    pub(crate) fn text(&mut self, field: &'static str, most: usize) -> Result<&'a str> {
        let start = self.0.position();
        let text = self
            .0
            .str()
            .map_err(|_| PlanError::new(field, "not a text of definite length"))?;
        self.sized(field, start, text.len(), most)?;
        Ok(text)
    }

    pub(crate) fn bytes(&mut self, field: &'static str, most: usize) -> Result<&'a [u8]> {
        let start = self.0.position();
        let bytes = self
            .0
            .bytes()
            .map_err(|_| PlanError::new(field, "not a byte string of definite length"))?;
        self.sized(field, start, bytes.len(), most)?;
        Ok(bytes)
    }

    fn sized(&self, field: &'static str, start: usize, size: usize, most: usize) -> Result<()> {
        if size > most {
            return Err(PlanError::new(field, "longer than its limit"));
        }
        if self.0.position() - start == head_bytes(size as u64) + size {
            Ok(())
        } else {
            Err(PlanError::new(field, "not in its shortest form"))
        }
    }

    /// A float64, finite.
    pub(crate) fn float(&mut self, field: &'static str) -> Result<f64> {
        let start = self.0.position();
        let value = self
            .0
            .f64()
            .map_err(|_| PlanError::new(field, "not a float64"))?;
        if self.0.position() - start != 9 || !value.is_finite() {
            return Err(PlanError::new(field, "not a finite float64"));
        }
        Ok(value)
    }

    /// Whether the next value is `null`, which is then read.
    pub(crate) fn nil(&mut self) -> bool {
        matches!(self.0.datatype(), Ok(minicbor::data::Type::Null)) && self.0.null().is_ok()
    }
}
