//! A small deterministic engine: its "model" is a hash of everything that a real one depends on.

use std::cell::RefCell;
use std::rc::Rc;

use myelin_wire::{Code, Engine, Error, PlanFacts, Rule, StepKeys, sha256};

/// A safetensors file with one tensor of 32 bytes, without the bytes.
pub const MODEL_HEADER: &[u8; 68] = b"\x3c\0\0\0\0\0\0\0\
    {\"weight\":{\"dtype\":\"U8\",\"shape\":[32],\"data_offsets\":[0,32]}}";

/// What the engine was given, for tests to look at while the job owns it.
#[derive(Debug, Default)]
pub struct Seen {
    pub records: Vec<u8>,
    pub keys: Option<[[u8; 32]; 4]>,
    pub dataset_size: u32,
    pub steps: u32,
    pub dropped: bool,
    /// Refuse the next records.
    pub refuse: Option<Error>,
    /// Fail the next steps.
    pub fail: Option<Error>,
}

#[derive(Debug)]
pub struct HashEngine {
    pub facts: PlanFacts,
    pub seen: Rc<RefCell<Seen>>,
}

impl HashEngine {
    pub fn new(record_bytes: u64, steps: u64) -> Self {
        let facts = PlanFacts {
            plan_digest: sha256(b"plan"),
            sampling_threshold: (1 << 63) + 12345,
            capacity: 6,
            steps,
            noise_multiplier_e9: 3_000_000_000,
            clipping: Rule {
                name: "flat".into(),
                numbers: Vec::new(),
            },
            correlation: Vec::new(),
            augment: Vec::new(),
            views: 1,
            clipping_norm_e9: 1_000_000_000,
            sensitivity_e9: 1_000_001_234,
            expected_batch_size: 4,
            parameters: 8,
            record_bytes,
            max_records: 1_000_000,
        };
        Self {
            facts,
            seen: Rc::default(),
        }
    }
}

impl Drop for HashEngine {
    fn drop(&mut self) {
        self.seen.borrow_mut().dropped = true;
    }
}

impl Engine for HashEngine {
    fn facts(&self) -> &PlanFacts {
        &self.facts
    }

    fn accept(&mut self, records: &[u8]) -> Result<(), Error> {
        let mut seen = self.seen.borrow_mut();
        if let Some(error) = seen.refuse.take() {
            return Err(error);
        }
        seen.records.extend_from_slice(records);
        Ok(())
    }

    fn begin(&mut self, keys: &StepKeys<'_>, dataset_size: u32) -> Result<(), Error> {
        let mut seen = self.seen.borrow_mut();
        let expected = u64::from(dataset_size) * self.facts.record_bytes;
        if seen.keys.is_some() || seen.records.len() as u64 != expected {
            return Err(Error::new(
                Code::DataHeaderInvalid,
                "begun twice, or another size than accepted",
            ));
        }
        seen.keys = Some([*keys.sampling, *keys.noise, *keys.dropout, *keys.augment]);
        seen.dataset_size = dataset_size;
        Ok(())
    }

    fn run(&mut self, most_steps: u32) -> Result<u32, Error> {
        let mut seen = self.seen.borrow_mut();
        if let Some(error) = seen.fail.take() {
            return Err(error);
        }
        let total = u32::try_from(self.facts.steps).unwrap_or(u32::MAX);
        seen.steps = seen.steps.saturating_add(most_steps).min(total);
        Ok(seen.steps)
    }

    fn model(&self) -> Result<Vec<u8>, Error> {
        let seen = self.seen.borrow();
        match seen.keys {
            // Gives what it has at any time: that nothing leaves early is for the gate to see to.
            Some(keys) => {
                let mut bytes = MODEL_HEADER.to_vec();
                bytes.extend(sha256(&[&keys.concat()[..], &seen.records[..]].concat()));
                Ok(bytes)
            }
            _ => Err(Error::new(Code::OutOfOrder, "not begun")),
        }
    }

    fn nonfinite(&self) -> u64 {
        7
    }
}
