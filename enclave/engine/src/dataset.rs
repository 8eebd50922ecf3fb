//! The dataset in enclave memory: records as they were sealed, checked as they come.

use alloc::format;

use myelin_boundary::{Public, public};
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

/// Whether a value is in a range; not where it is NaN. Both comparisons are made, whatever the first says.
#[inline(always)]
fn inside(value: f32, lower: f64, upper: f64) -> bool {
    let value = f64::from(value);
    (value >= lower) & (value <= upper)
}

fn label_fits(data: &Data, label: [u8; 4]) -> bool {
    match data.label {
        // A negative one is a large one.
        Label::Class(classes) => u32::from_le_bytes(label) < classes,
        Label::Number { lower, upper, .. } => inside(f32::from_le_bytes(label), lower, upper),
    }
}

/// Whether all features are in their ranges. All are looked at, whatever the first ones are.
fn all_inside(data: &Data, raw: impl Iterator<Item = f32>) -> bool {
    match (data.lower.as_slice(), data.upper.as_slice()) {
        // One for all features: what becomes vector code.
        (&[lower], &[upper]) => raw.fold(true, |fit, raw| fit & inside(raw, lower, upper)),
        (lower, upper) => raw
            .zip(lower.iter().zip(upper))
            .fold(true, |fit, (raw, (&lower, &upper))| {
                fit & inside(raw, lower, upper)
            }),
    }
}

fn features_fit(data: &Data, features: &[u8]) -> bool {
    match data.feature_type {
        TensorType::Uint8 => all_inside(data, features.iter().map(|&raw| f32::from(raw))),
        _ => {
            let (raw, _) = features.as_chunks::<4>();
            all_inside(data, raw.iter().map(|&raw| f32::from_le_bytes(raw)))
        }
    }
}

/// Which feature is the first out of its range.
fn first_outside(data: &Data, features: &[u8]) -> Option<usize> {
    let outside = |(feature, raw): (usize, f32)| {
        !inside(raw, of(&data.lower, feature), of(&data.upper, feature))
    };
    match data.feature_type {
        TensorType::Uint8 => {
            let raw = features.iter().map(|&raw| f32::from(raw));
            raw.enumerate().position(outside)
        }
        _ => {
            let (raw, _) = features.as_chunks::<4>();
            let raw = raw.iter().map(|&raw| f32::from_le_bytes(raw));
            raw.enumerate().position(outside)
        }
    }
}

/// Features and label at the start of `bytes`; `None` where they are shorter than a record.
pub(crate) fn split<'a>(data: &Data, bytes: &'a [u8]) -> Option<(&'a [u8], [u8; 4])> {
    let record = bytes.get(..data.record_bytes)?;
    let (features, label) = record.split_at_checked(data.record_bytes - 4)?;
    Some((features, four(label)))
}

/// Writes what the model sees of a record's features: `raw × scale + offset` in float32, with the bits of `kept` alone.
pub(crate) fn features(data: &Data, features: &[u8], kept: u32, out: &mut [f32]) {
    match data.feature_type {
        TensorType::Uint8 => model(data, features.iter().map(|&raw| f32::from(raw)), kept, out),
        _ => {
            let (raw, _) = features.as_chunks::<4>();
            let raw = raw.iter().map(|&raw| f32::from_le_bytes(raw));
            model(data, raw, kept, out);
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
        split(data, self.region.get(start..)?)
    }

    /// All records' bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.region.get(..self.filled_bytes).unwrap_or_default()
    }

    /// Whether a record fits the schema is seen, and what does not fit if one does not; of one that does, nothing else.
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
        if public(
            label_fits(data, label) & features_fit(data, features),
            Public::RecordFits,
        ) {
            return Ok(());
        }
        if !label_fits(data, label) {
            return Err(refuse(match data.label {
                Label::Class(_) => "label: not a class of the schema",
                Label::Number { .. } => "label: not a finite value in the schema's range",
            }));
        }
        let first_bad = first_outside(data, features).unwrap_or_default();
        Err(refuse(&format!(
            "feature {first_bad}: not a finite value in the schema's range"
        )))
    }

    /// The bytes of the record in a slot; of an empty one those of the first record, which are read as long.
    ///
    /// The address is the index: who must not show goes by [`crate::gather`].
    pub(crate) fn drawn(&self, data: &Data, index: u32) -> (&[u8], [u8; 4]) {
        self.record(data, index as usize)
            .or_else(|| self.record(data, 0))
            .unwrap_or((&[], [0; 4]))
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
