//! What the state machine needs from the crates that it does not depend on.

use alloc::vec::Vec;

use crate::{Error, Rule};

/// What is true of the image's plan, checked once at start: the protocol compares a contract's event with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanFacts {
    /// SHA-256 of the image's `.myelin.plan` section.
    pub plan_digest: [u8; 32],
    /// The sampling rate is `sampling_threshold / 2^64`.
    pub sampling_threshold: u64,
    /// The most records that one step uses; more drawn ones are dropped at random.
    pub capacity: u64,
    /// Logical steps in all.
    pub steps: u64,
    /// Noise multiplier × 10⁹.
    pub noise_multiplier_e9: u64,
    /// How gradients are clipped.
    pub clipping: Rule,
    /// Coefficients × 10⁹ of noise that is correlated over steps, where records take turns; none where they are drawn.
    pub correlation: Vec<u64>,
    /// What makes another view of a record at every step, in order.
    pub augment: Vec<Rule>,
    /// Views of a record at a step, over which its gradient is the mean.
    pub views: u64,
    /// Clipping norm × 10⁹.
    pub clipping_norm_e9: u64,
    /// L2 sensitivity of one step's sum with all rounding × 10⁹.
    pub sensitivity_e9: u64,
    /// The public divisor of the noisy sum.
    pub expected_batch_size: u64,
    /// Coordinates noised per step.
    pub parameters: u64,
    /// Bytes of one plaintext record.
    pub record_bytes: u64,
    /// The most records, of all owners together, that the image has room for.
    pub max_records: u64,
}

/// Keys of a run's randomness, each of one thing only.
#[derive(Clone, Copy)]
pub struct StepKeys<'a> {
    /// Which records are drawn.
    pub sampling: &'a [u8; 32],
    /// The noise.
    pub noise: &'a [u8; 32],
    /// Masks of dropout layers.
    pub dropout: &'a [u8; 32],
    /// Views of records.
    pub augment: &'a [u8; 32],
}

/// Runs the plan. Implemented by the crate `engine`.
pub trait Engine {
    /// The facts of the plan that this engine runs.
    fn facts(&self) -> &PlanFacts;

    /// Appends plaintext record bytes to the dataset, in order; a record may be split between calls.
    ///
    /// # Errors
    /// `data_record_invalid` for a value outside the plan's ranges or classes, `data_too_large` for no room. The caller
    /// stops the enclave on any error, since part of `records` may have been appended.
    fn accept(&mut self, records: &[u8]) -> Result<(), Error>;

    /// Fixes the dataset (its size in records must be `dataset_size`) and the keys of a run's randomness. Called once.
    ///
    /// # Errors
    /// `data_too_large` or `data_header_invalid` where the size differs from what was accepted; fatal for the caller.
    fn begin(&mut self, keys: &StepKeys<'_>, dataset_size: u32) -> Result<(), Error>;

    /// Runs at most `most_steps` more steps, and answers how many are done in all.
    ///
    /// # Errors
    /// `kernel_failed`; fatal for the caller.
    fn run(&mut self, most_steps: u32) -> Result<u32, Error>;

    /// The trained model as safetensors bytes.
    ///
    /// # Errors
    /// `out_of_order` before all steps are done.
    fn model(&self) -> Result<Vec<u8>, Error>;

    /// How many contributions were not finite and so were replaced by zero, in all steps so far. Secret unless the
    /// contract releases it.
    fn nonfinite(&self) -> u64;
}

/// Evidence, or who has to be asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// A CMW record (RFC 9999).
    Now(Vec<u8>),
    /// Only what runs the image can make it: it is asked, and answers with the message `evidence`.
    Ask,
}

/// Makes evidence of what runs here.
pub trait Attester {
    /// Told once, at launch, what the loader says the measurement is. An attester whose hardware measures ignores it;
    /// a simulated one has nothing else to report.
    fn launched(&mut self, _measurement: &[u8; 32]) {}

    /// Evidence that binds `report_data` to this image's measurement.
    ///
    /// # Errors
    /// `entropy_failed` where making it needs randomness that the processor did not give.
    fn evidence(&mut self, report_data: &[u8; 64]) -> Result<Evidence, Error>;

    /// Told when evidence that was asked for is there, or is not wanted any more.
    fn settled(&mut self) {}
}

/// Random bytes from the processor, through a CSPRNG that is seeded inside.
pub trait Entropy {
    /// Fills all of `out`.
    ///
    /// # Errors
    /// `entropy_failed`; what `out` then holds must not be used.
    fn fill(&mut self, out: &mut [u8]) -> Result<(), Error>;
}
