//! The mechanism as signed: DpEvent, protocol section 7.

use alloc::string::String;
use alloc::vec::Vec;

use crate::limits::{
    AUGMENTATION_NUMBERS_MAX, AUGMENTATIONS_MAX, BANDS_MAX, CLIPPING_NUMBERS_MAX, NAME_BYTES_MAX,
};
use crate::{Code, Error, PlanFacts, Reader, Writer};

/// A clipping rule or an augmentation: an array of its name and its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// Its numbers; of a clipping rule × 10⁹.
    pub numbers: Vec<u64>,
}

impl Rule {
    fn read(reader: &mut Reader<'_>, field: &'static str, most: usize) -> Result<Self, Error> {
        let count = reader.array(field, 1, 1 + most)?;
        let name = String::from(reader.text(field, 1, NAME_BYTES_MAX)?);
        let numbers = (1..count).map(|_| reader.uint(field));
        Ok(Self {
            name,
            numbers: numbers.collect::<Result<_, _>>()?,
        })
    }

    fn write(&self, writer: Writer) -> Writer {
        let writer = writer.array(1 + self.numbers.len()).text(&self.name);
        self.numbers
            .iter()
            .fold(writer, |writer, &number| writer.uint(number))
    }
}

/// `truncated-poisson-gaussian`, or with a correlation `cyclic-banded-gaussian`, under `replace-special`, as integers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DpEvent {
    /// Records of all owners together.
    pub dataset_size: u64,
    /// The sampling rate is `sampling_threshold / 2^64`.
    pub sampling_threshold: u64,
    /// The most records that one step uses.
    pub capacity: u64,
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
    /// L2 sensitivity of one step's sum, with all rounding, × 10⁹.
    pub sensitivity_e9: u64,
    /// The public divisor of the noisy sum.
    pub expected_batch_size: u64,
    /// Steps in all.
    pub steps: u64,
    /// Coordinates noised per step.
    pub parameters: u64,
}

const DRAWN: &str = "truncated-poisson-gaussian";
const IN_TURN: &str = "cyclic-banded-gaussian";
const RELATION: &str = "replace-special";
const KEYS: &[&str] = &[
    "type",
    "steps",
    "views",
    "augment",
    "capacity",
    "clipping",
    "parameters",
    "correlation",
    "dataset_size",
    "sensitivity_e9",
    "clipping_norm_e9",
    "sampling_threshold",
    "expected_batch_size",
    "noise_multiplier_e9",
    "neighboring_relation",
];

impl DpEvent {
    /// The event that an image with `facts` executes on `dataset_size` records.
    #[must_use]
    pub fn of(facts: &PlanFacts, dataset_size: u64) -> Self {
        Self {
            dataset_size,
            sampling_threshold: facts.sampling_threshold,
            capacity: facts.capacity,
            noise_multiplier_e9: facts.noise_multiplier_e9,
            clipping: facts.clipping.clone(),
            correlation: facts.correlation.clone(),
            augment: facts.augment.clone(),
            views: facts.views,
            clipping_norm_e9: facts.clipping_norm_e9,
            sensitivity_e9: facts.sensitivity_e9,
            expected_batch_size: facts.expected_batch_size,
            steps: facts.steps,
            parameters: facts.parameters,
        }
    }

    /// The name of the first number in which two events differ.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<&'static str> {
        let pairs = [
            ("dataset_size", self.dataset_size, other.dataset_size),
            (
                "sampling_threshold",
                self.sampling_threshold,
                other.sampling_threshold,
            ),
            ("capacity", self.capacity, other.capacity),
            (
                "noise_multiplier_e9",
                self.noise_multiplier_e9,
                other.noise_multiplier_e9,
            ),
            (
                "clipping_norm_e9",
                self.clipping_norm_e9,
                other.clipping_norm_e9,
            ),
            ("sensitivity_e9", self.sensitivity_e9, other.sensitivity_e9),
            (
                "expected_batch_size",
                self.expected_batch_size,
                other.expected_batch_size,
            ),
            ("steps", self.steps, other.steps),
            ("parameters", self.parameters, other.parameters),
            ("views", self.views, other.views),
        ];
        pairs
            .into_iter()
            .find(|(_, a, b)| a != b)
            .map(|(name, _, _)| name)
            .or((self.clipping != other.clipping).then_some("clipping"))
            .or((self.correlation != other.correlation).then_some("correlation"))
            .or((self.augment != other.augment).then_some("augment"))
    }

    /// Reads the event's map.
    ///
    /// # Errors
    /// `malformed_message`, `unknown_field`.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        reader.map("event", KEYS)?;
        reader.key("type", KEYS)?;
        let kind = reader.text("type", 0, DRAWN.len())?;
        let uint = |reader: &mut Reader<'_>, name: &'static str| {
            reader.key(name, KEYS)?;
            reader.uint(name)
        };
        let steps = uint(reader, "steps")?;
        let views = uint(reader, "views")?;
        reader.key("augment", KEYS)?;
        let count = reader.array("augment", 0, AUGMENTATIONS_MAX)?;
        let augment = (0..count).map(|_| Rule::read(reader, "augment", AUGMENTATION_NUMBERS_MAX));
        let augment = augment.collect::<Result<Vec<_>, _>>()?;
        let capacity = uint(reader, "capacity")?;
        reader.key("clipping", KEYS)?;
        let clipping = Rule::read(reader, "clipping", CLIPPING_NUMBERS_MAX)?;
        let parameters = uint(reader, "parameters")?;
        reader.key("correlation", KEYS)?;
        let bands = reader.array("correlation", 0, BANDS_MAX)?;
        let correlation = (0..bands).map(|_| reader.uint("correlation"));
        let correlation = correlation.collect::<Result<Vec<_>, _>>()?;
        if kind != Self::kind(&correlation) {
            let detail = "type: expected that of the event's correlation";
            return Err(Error::new(Code::MalformedMessage, detail));
        }
        let mut uint = |name: &'static str| uint(reader, name);
        let dataset_size = uint("dataset_size")?;
        let sensitivity_e9 = uint("sensitivity_e9")?;
        let clipping_norm_e9 = uint("clipping_norm_e9")?;
        let sampling_threshold = uint("sampling_threshold")?;
        let expected_batch_size = uint("expected_batch_size")?;
        let noise_multiplier_e9 = uint("noise_multiplier_e9")?;
        reader.key("neighboring_relation", KEYS)?;
        reader.constant("neighboring_relation", RELATION)?;
        Ok(Self {
            dataset_size,
            sampling_threshold,
            capacity,
            noise_multiplier_e9,
            clipping,
            correlation,
            augment,
            views,
            clipping_norm_e9,
            sensitivity_e9,
            expected_batch_size,
            steps,
            parameters,
        })
    }

    /// Writes the event's map.
    #[must_use]
    pub fn write(&self, writer: Writer) -> Writer {
        let writer = writer
            .map(KEYS.len())
            .text("type")
            .text(Self::kind(&self.correlation))
            .text("steps")
            .uint(self.steps)
            .text("views")
            .uint(self.views)
            .text("augment")
            .array(self.augment.len());
        let writer = self
            .augment
            .iter()
            .fold(writer, |writer, rule| rule.write(writer))
            .text("capacity")
            .uint(self.capacity)
            .text("clipping");
        let writer = self
            .clipping
            .write(writer)
            .text("parameters")
            .uint(self.parameters)
            .text("correlation")
            .array(self.correlation.len());
        let coefficients = self.correlation.iter();
        coefficients
            .fold(writer, |writer, &number| writer.uint(number))
            .text("dataset_size")
            .uint(self.dataset_size)
            .text("sensitivity_e9")
            .uint(self.sensitivity_e9)
            .text("clipping_norm_e9")
            .uint(self.clipping_norm_e9)
            .text("sampling_threshold")
            .uint(self.sampling_threshold)
            .text("expected_batch_size")
            .uint(self.expected_batch_size)
            .text("noise_multiplier_e9")
            .uint(self.noise_multiplier_e9)
            .text("neighboring_relation")
            .text(RELATION)
    }

    /// The type of an event with this correlation.
    fn kind(correlation: &[u64]) -> &'static str {
        if correlation.is_empty() {
            DRAWN
        } else {
            IN_TURN
        }
    }

    /// Checks that this is what an image with `facts` executes on the contract's records.
    ///
    /// # Errors
    /// `wrong_plan`, naming the first number that differs.
    pub fn check(&self, facts: &PlanFacts, dataset_size: u64) -> Result<(), Error> {
        match self.difference(&Self::of(facts, dataset_size)) {
            None => Ok(()),
            Some(name) => Err(Error::new(
                Code::WrongPlan,
                alloc::format!("the contract's event differs from the image's plan in {name}"),
            )),
        }
    }
}
