//! The engine: a plan, the memory it runs in, and how far it has run.

use alloc::format;
use alloc::vec::Vec;

use myelin_boundary::{Arena, Dtype, KernelError, Kernels, Lanes, Machine, Memory, TensorRef};
use myelin_mechanism::noise::SIGMA_UNITS;
use myelin_plan::{Call, Plan, Tensor, TensorType};
use myelin_wire::{Code, Engine, Error, PlanFacts, Rule, StepKeys, sha256};
use zeroize::Zeroize;

use crate::dataset::Dataset;
use crate::gather::Sample;
use crate::turns::Turns;
use crate::views::Views;

/// Largest magnitude of a sum in grid units that the rounding of sums is exact for, with noise on top.
const SUM_UNITS_LIMIT: f64 = (1_u64 << 50) as f64;

/// Runs the image's plan. One per image; wipes its memory when dropped.
pub struct TrainingEngine {
    pub(crate) plan: Plan,
    pub(crate) arena: Arena,
    pub(crate) kernels: Kernels,
    pub(crate) dataset: Dataset,
    pub(crate) keys: Keys,
    /// What the model sees of a record.
    pub(crate) views: Views,
    /// What each lane has of this logical step.
    pub(crate) lanes: Vec<Lane>,
    /// Indices drawn in this logical step, `u32::MAX` where a slot is empty; a whole number of physical batches.
    pub(crate) drawn: Vec<u32>,
    /// The drawn records, where the plan hides who they are.
    pub(crate) sample: Option<Sample>,
    /// What steps with correlated noise need of those before.
    pub(crate) turns: Turns,
    pub(crate) dataset_size: u32,
    pub(crate) steps_done: u32,
    pub(crate) nonfinite: u64,
    begun: bool,
    params: &'static [u8],
    facts: PlanFacts,
}

/// A lane's part of a logical step.
pub(crate) struct Lane {
    /// Sum of clipped gradients of its batches but the last, all parameters one after another; empty where it has one batch.
    /// The last batch's are where the kernels wrote them.
    pub(crate) sums: Vec<f64>,
    /// Real examples whose gradient was not finite.
    pub(crate) nonfinite: u64,
    /// Room for one plane of an image that is augmented; zero but then.
    pub(crate) plane: Vec<f32>,
    /// What went wrong, if something did.
    pub(crate) failed: Option<Error>,
}

/// Keys of a run's randomness, each of one thing only.
#[derive(Default)]
pub(crate) struct Keys {
    pub(crate) sampling: [u8; 32],
    pub(crate) noise: [u8; 32],
    pub(crate) dropout: [u8; 32],
    pub(crate) augment: [u8; 32],
}

impl Keys {
    fn wipe(&mut self) {
        self.sampling.zeroize();
        self.noise.zeroize();
        self.dropout.zeroize();
        self.augment.zeroize();
    }
}

pub(crate) fn dtype(of: TensorType) -> Dtype {
    match of {
        TensorType::Float32 => Dtype::Float32,
        TensorType::Int32 => Dtype::Int32,
        TensorType::Uint8 => Dtype::Uint8,
        TensorType::Int64 => Dtype::Int64,
        TensorType::Bool => Dtype::Bool,
    }
}

fn invalid(detail: impl Into<alloc::borrow::Cow<'static, str>>) -> Error {
    Error::new(Code::PlanInvalid, detail).fatal()
}

impl TrainingEngine {
    /// Parses and checks the machine's plan, and takes the machine.
    ///
    /// # Errors
    /// `plan_invalid`, naming the field; always fatal.
    pub fn new(machine: Machine) -> Result<Self, Error> {
        let plan = Plan::parse(machine.plan, machine.params.len(), machine.kernels.len())
            .map_err(|error| invalid(format!("{error}")))?;
        let dataset = Dataset::new(machine.dataset);
        if plan.layout.arena_bytes() > machine.arena.len() {
            return Err(invalid("lane_bytes: larger than the image's arena"));
        }
        if plan.data.max_records * plan.data.record_bytes > dataset.room() {
            return Err(invalid(
                "max_records: larger than the image's dataset region",
            ));
        }
        check_noise(&plan)?;
        let parameters = plan.parameter_count();
        let facts = facts(&plan, machine.plan, parameters);
        let views = Views::new(&plan)?;
        let slots = plan.physical_batches() * plan.dp.microbatch;
        Ok(Self {
            arena: machine.arena,
            kernels: machine.kernels,
            dataset,
            keys: Keys::default(),
            lanes: (0..plan.layout.lanes)
                .map(|lane| Lane {
                    sums: if lane + plan.layout.lanes < plan.physical_batches() {
                        alloc::vec![0.0; parameters]
                    } else {
                        Vec::new()
                    },
                    nonfinite: 0,
                    plane: alloc::vec![0.0; views.plane()],
                    failed: None,
                })
                .collect(),
            views,
            drawn: alloc::vec![u32::MAX; slots],
            sample: Sample::new(&plan),
            turns: Turns::new(&plan.dp, parameters),
            dataset_size: 0,
            steps_done: 0,
            nonfinite: 0,
            begun: false,
            params: machine.params,
            facts,
            plan,
        })
    }

    /// Sets parameters to their initial values and state to zero.
    fn initialise(&mut self) -> Result<(), Error> {
        self.arena.wipe();
        let mut memory = self.arena.whole(lanes(&self.plan)).ok_or_else(outside)?;
        for initial in &self.plan.params {
            let tensor = tensor(&self.plan, initial.tensor)?;
            let end = initial.offset + tensor.bytes();
            let from = self.params.get(initial.offset..end);
            let to = memory.view_mut::<u8>(tensor.offset, tensor.bytes());
            match (from, to) {
                (Some(from), Some(to)) => to.copy_from_slice(from),
                _ => return Err(outside()),
            }
        }
        Ok(())
    }
}

/// The noise must be what the event says: its standard deviation on the grid at least `noise_multiplier × sensitivity`, and
/// the largest sum far inside what rounding is exact for.
fn check_noise(plan: &Plan) -> Result<(), Error> {
    let dp = &plan.dp;
    let e9 = |value: u64| value as f64 / 1e9;
    let claimed = e9(dp.noise_multiplier_e9) * e9(dp.sensitivity_e9);
    // One part in 2^40 of slack, for the roundings of this very line.
    if dp.grid * f64::from(SIGMA_UNITS) * (1.0 + 1.0 / (1_u64 << 40) as f64) < claimed {
        return Err(invalid(
            "grid: less noise than noise_multiplier × sensitivity",
        ));
    }
    if dp.capacity as f64 * e9(dp.clipping_norm_e9) / dp.grid > SUM_UNITS_LIMIT {
        return Err(invalid("grid: too fine for the largest sum"));
    }
    Ok(())
}

fn facts(plan: &Plan, bytes: &[u8], parameters: usize) -> PlanFacts {
    let rule = |rule: &myelin_plan::Rule| Rule {
        name: rule.name.clone(),
        numbers: rule.numbers.clone(),
    };
    PlanFacts {
        plan_digest: sha256(bytes),
        sampling_threshold: plan.dp.sampling_threshold,
        capacity: plan.dp.capacity as u64,
        steps: u64::from(plan.dp.steps),
        noise_multiplier_e9: plan.dp.noise_multiplier_e9,
        clipping: rule(&plan.dp.clipping),
        correlation: plan.dp.correlation.clone(),
        augment: plan.dp.augment.iter().map(rule).collect(),
        views: plan.dp.views as u64,
        clipping_norm_e9: plan.dp.clipping_norm_e9,
        sensitivity_e9: plan.dp.sensitivity_e9,
        expected_batch_size: plan.dp.expected_batch_size,
        parameters: parameters as u64,
        record_bytes: plan.data.record_bytes as u64,
        max_records: plan.data.max_records as u64,
    }
}

/// A tensor of a checked plan.
pub(crate) fn tensor(plan: &Plan, index: usize) -> Result<&Tensor, Error> {
    plan.tensors.get(index).ok_or_else(outside)
}

/// How the plan divides the arena.
pub(crate) fn lanes(plan: &Plan) -> Lanes {
    Lanes {
        shared_bytes: plan.layout.shared_bytes,
        lane_bytes: plan.layout.lane_bytes,
        count: plan.layout.lanes,
    }
}

/// What a checked plan rules out.
pub(crate) fn outside() -> Error {
    Error::new(
        Code::PlanInvalid,
        "a tensor is not where the plan was checked to have it",
    )
    .fatal()
}

/// Runs a list of calls.
pub(crate) fn run_calls(
    plan: &Plan,
    kernels: &Kernels,
    memory: &mut Memory<'_>,
    calls: &[Call],
) -> Result<(), Error> {
    const NONE: TensorRef<'static> = TensorRef {
        offset: 0,
        dtype: Dtype::Uint8,
        shape: &[],
    };
    for call in calls {
        let mut arguments = [NONE; myelin_boundary::KERNEL_ARGUMENTS_LIMIT];
        let mut count = 0;
        for (&index, argument) in call.inputs.iter().chain(&call.outputs).zip(&mut arguments) {
            let tensor = tensor(plan, index)?;
            *argument = TensorRef {
                offset: tensor.offset,
                dtype: dtype(tensor.dtype),
                shape: &tensor.shape,
            };
            count += 1;
        }
        let arguments = arguments.get(..count).unwrap_or(&[]);
        kernels
            .call(memory, call.kernel, arguments, call.inputs.len())
            .map_err(|error| kernel_failed(call.kernel, &error))?;
    }
    Ok(())
}

fn kernel_failed(kernel: usize, error: &KernelError) -> Error {
    let why = match error {
        KernelError::Unknown => "there is no such kernel".into(),
        KernelError::Argument(position) => format!("argument {position} is not acceptable"),
        KernelError::Failed(message) => message.clone(),
    };
    Error::new(Code::KernelFailed, format!("kernel {kernel}: {why}")).fatal()
}

impl Engine for TrainingEngine {
    fn facts(&self) -> &PlanFacts {
        &self.facts
    }

    fn accept(&mut self, records: &[u8]) -> Result<(), Error> {
        if self.begun {
            return Err(Error::new(Code::OutOfOrder, "the dataset is fixed"));
        }
        self.dataset.append(&self.plan.data, records)
    }

    fn begin(&mut self, keys: &StepKeys<'_>, dataset_size: u32) -> Result<(), Error> {
        if self.begun {
            return Err(Error::new(Code::AlreadyGiven, "training has begun"));
        }
        let (records, partial) = self.dataset.records(&self.plan.data);
        if partial || records != dataset_size as usize || records == 0 {
            let detail = format!("expected {dataset_size} whole records, got {records}");
            return Err(Error::new(Code::DataHeaderInvalid, detail));
        }
        self.initialise()?;
        self.keys.sampling = *keys.sampling;
        self.keys.noise = *keys.noise;
        self.keys.dropout = *keys.dropout;
        self.keys.augment = *keys.augment;
        self.turns
            .order(keys.sampling, dataset_size, &self.plan.dp)?;
        self.dataset_size = dataset_size;
        self.begun = true;
        Ok(())
    }

    fn run(&mut self, most_steps: u32) -> Result<u32, Error> {
        if !self.begun {
            return Err(Error::new(Code::OutOfOrder, "training has not begun"));
        }
        let end = self
            .steps_done
            .saturating_add(most_steps)
            .min(self.plan.dp.steps);
        while self.steps_done < end {
            self.logical_step()?;
        }
        if self.steps_done == self.plan.dp.steps {
            // Nothing needs the records or the keys again.
            self.dataset.wipe();
            self.sample = None;
            self.keys.wipe();
            self.turns.wipe();
        }
        Ok(self.steps_done)
    }

    fn model(&self) -> Result<Vec<u8>, Error> {
        if !self.begun || self.steps_done < self.plan.dp.steps {
            return Err(Error::new(Code::OutOfOrder, "not all steps are done"));
        }
        let size = self.plan.model_header.len() + 4 * self.plan.parameter_count();
        let mut model = Vec::with_capacity(size);
        model.extend_from_slice(&self.plan.model_header);
        for role in &self.plan.roles.parameters {
            let released = tensor(&self.plan, role.released)?;
            let bytes = self.arena.view::<u8>(released.offset, released.bytes());
            model.extend_from_slice(bytes.ok_or_else(outside)?);
        }
        Ok(model)
    }

    fn nonfinite(&self) -> u64 {
        self.nonfinite
    }
}

impl Drop for TrainingEngine {
    fn drop(&mut self) {
        self.arena.wipe();
        self.dataset.wipe();
        self.keys.wipe();
        for lane in &mut self.lanes {
            lane.sums.zeroize();
            lane.plane.zeroize();
        }
        self.drawn.zeroize();
        self.turns.wipe();
        self.nonfinite.zeroize();
    }
}
