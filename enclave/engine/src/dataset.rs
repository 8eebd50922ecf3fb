//! The dataset in enclave memory: records as they were sealed, checked as they come.

use alloc::format;

use myelin_plan::{Data, Label, TensorType};
use myelin_wire::{Code, Error};
use zeroize::Zeroize;

/// Records, row after row, in the image's dataset region.
pub(crate) struct Dataset {
    region: &'static mut [u8],
    filled_bytes: usize,
}

/// One number of a list that is either one for all features or one for each.
fn of(list: &[f64], feature: usize) -> f64 {
    let index = if list.len() == 1 { 0 } else { feature };
    list.get(index).copied().unwrap_or(f64::NAN)
}

/// A little-endian value at the start of `bytes`, or zero where there are too few.
fn four(bytes: &[u8]) -> [u8; 4] {
    bytes.first_chunk::<4>().copied().unwrap_or_default()
}

/// Writes `raw × scale + offset` of every feature in float32, with the bits of `kept` alone.
fn model(data: &Data, raw: impl Iterator<Item = f32>, kept: u32, out: &mut [f32]) {
    let seen = |raw: f32, scale: f64, offset: f64| {
        f32::from_bits((raw * scale as f32 + offset as f32).to_bits() & kept)
    };
    match (data.scale.as_slice(), data.offset.as_slice()) {
        // One for all features: what becomes vector code.
        (&[scale], &[offset]) => {
            for (out, raw) in out.iter_mut().zip(raw) {
                *out = seen(raw, scale, offset);
            }
        }
        (scales, offsets) => {
            let numbers = scales.iter().zip(offsets);
            for ((out, raw), (&scale, &offset)) in out.iter_mut().zip(raw).zip(numbers) {
                *out = seen(raw, scale, offset);
            }
        }
    }
}

impl Dataset {
    pub(crate) fn new(region: &'static mut [u8]) -> Self {
        Self {
            region,
            filled_bytes: 0,
        }
    }

    /// Bytes of room.
    pub(crate) fn room(&self) -> usize {
        self.region.len()
    }

    /// Whole records so far, and whether the last one is incomplete.
    pub(crate) fn records(&self, data: &Data) -> (usize, bool) {
        (
            self.filled_bytes / data.record_bytes,
            !self.filled_bytes.is_multiple_of(data.record_bytes),
        )
    }

    /// Appends bytes and checks every record that they complete.
    pub(crate) fn append(&mut self, data: &Data, bytes: &[u8]) -> Result<(), Error> {
        let most = data.max_records * data.record_bytes;
        let end = self
            .filled_bytes
            .checked_add(bytes.len())
            .filter(|&end| end <= most)
            .ok_or_else(|| {
                Error::new(
                    Code::DataTooLarge,
                    format!("the image has room for {} records", data.max_records),
                )
            })?;
        let (complete, _) = self.records(data);
        let place = self.region.get_mut(self.filled_bytes..end);
        place
            .ok_or_else(|| Error::new(Code::DataTooLarge, "the image's dataset region is full"))?
            .copy_from_slice(bytes);
        self.filled_bytes = end;
        for record in complete..end / data.record_bytes {
            self.check(data, record)?;
        }
        Ok(())
    }

    /// One record's bytes: features, and the label's four.
    pub(crate) fn record(&self, data: &Data, index: usize) -> Option<(&[u8], [u8; 4])> {
        let start = index.checked_mul(data.record_bytes)?;
        let record = self
            .region
            .get(start..start.checked_add(data.record_bytes)?)?;
        let (features, label) = record.split_at_checked(data.record_bytes - 4)?;
        Some((features, four(label)))
    }

    fn check(&self, data: &Data, index: usize) -> Result<(), Error> {
        let refuse = |what: &str| {
            Error::new(
                Code::DataRecordInvalid,
                format!("record {index} of all owners' together, {what}"),
            )
        };
        let (features, label) = self
            .record(data, index)
            .ok_or_else(|| refuse("not in memory"))?;
        match data.label {
            Label::Class(classes) => {
                let class = u32::try_from(i32::from_le_bytes(label));
                if !class.is_ok_and(|class| class < classes) {
                    return Err(refuse("label: not a class of the schema"));
                }
            }
            Label::Number { lower, upper, .. } => {
                let value = f64::from(f32::from_le_bytes(label));
                // False for NaN.
                if !(value >= lower && value <= upper) {
                    return Err(refuse("label: not a finite value in the schema's range"));
                }
            }
        }
        let inside = |feature: usize, value: f64| {
            // False for NaN.
            value >= of(&data.lower, feature) && value <= of(&data.upper, feature)
        };
        let first_bad = match data.feature_type {
            TensorType::Uint8 => features
                .iter()
                .enumerate()
                .position(|(feature, &raw)| !inside(feature, f64::from(raw))),
            _ => features
                .chunks_exact(4)
                .enumerate()
                .position(|(feature, raw)| {
                    !inside(feature, f64::from(f32::from_le_bytes(four(raw))))
                }),
        };
        match first_bad {
            None => Ok(()),
            Some(feature) => Err(refuse(&format!(
                "feature {feature}: not a finite value in the schema's range"
            ))),
        }
    }

    /// Writes what the model sees of one record: `raw × scale + offset` in float32, or zeros where `index` is none of them.
    ///
    /// Absent records cost the same work as present ones.
    pub(crate) fn gather(&self, data: &Data, index: u32, out: &mut [f32]) {
        let found = self.record(data, index as usize);
        let kept = 0_u32.wrapping_sub(u32::from(found.is_some()));
        let (features, _) = found
            .or_else(|| self.record(data, 0))
            .unwrap_or((&[], [0; 4]));
        match data.feature_type {
            TensorType::Uint8 => model(data, features.iter().map(|&raw| f32::from(raw)), kept, out),
            _ => {
                let (raw, _) = features.as_chunks::<4>();
                model(
                    data,
                    raw.iter().map(|&raw| f32::from_le_bytes(raw)),
                    kept,
                    out,
                );
            }
        }
    }

    /// The class of a record, or 0 where `index` is none of them.
    pub(crate) fn class(&self, data: &Data, index: u32) -> i32 {
        self.record(data, index as usize)
            .map_or(0, |(_, label)| i32::from_le_bytes(label))
    }

    /// What the loss sees of a record's number: `raw × scale + offset` in float32, or 0 where `index` is none of them.
    pub(crate) fn number(&self, data: &Data, index: u32, scale: f64, offset: f64) -> f32 {
        self.record(data, index as usize).map_or(0.0, |(_, label)| {
            f32::from_le_bytes(label) * (scale as f32) + (offset as f32)
        })
    }

    /// Forgets every record.
    pub(crate) fn wipe(&mut self) {
        let filled = self.filled_bytes.min(self.region.len());
        if let Some(bytes) = self.region.get_mut(..filled) {
            bytes.zeroize();
        }
        self.filled_bytes = 0;
    }
}
