//! A plan, typed.

use alloc::string::String;
use alloc::vec::Vec;

/// Element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorType {
    /// IEEE 754 binary32.
    Float32,
    /// Signed, 32 bits.
    Int32,
    /// Unsigned, 8 bits.
    Uint8,
    /// Signed, 64 bits.
    Int64,
    /// One byte, 0 or 1.
    Bool,
}

impl TensorType {
    /// Size of an element in bytes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Float32 | Self::Int32 => 4,
            Self::Uint8 | Self::Bool => 1,
            Self::Int64 => 8,
        }
    }
}

/// A place in the arena, and how to read it: row-major, no gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Byte offset in the arena, a multiple of 64.
    pub offset: usize,
    /// Element type.
    pub dtype: TensorType,
    /// Dimensions, each at least 1.
    pub shape: Vec<i64>,
    /// Number of elements.
    pub count: usize,
}

impl Tensor {
    /// Size in bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.count * self.dtype.bytes()
    }

    /// First byte behind it.
    #[must_use]
    pub const fn end(&self) -> usize {
        self.offset + self.bytes()
    }

    /// Whether both have a byte in common.
    #[must_use]
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.offset < other.end() && other.offset < self.end()
    }

    /// Whether both are the same bytes, if under another shape or type.
    #[must_use]
    pub const fn same_bytes(&self, other: &Self) -> bool {
        self.offset == other.offset && self.bytes() == other.bytes()
    }
}

/// One kernel call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Index of the kernel.
    pub kernel: usize,
    /// Indices of the input tensors.
    pub inputs: Vec<usize>,
    /// Indices of the output tensors.
    pub outputs: Vec<usize>,
}

/// The tensors of one trained parameter; indices into [`Plan::tensors`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterRole {
    /// Its name in the model.
    pub name: String,
    /// Its value.
    pub value: usize,
    /// What the released model has of it: its value, or state such as an average of values.
    pub released: usize,
    /// Sum over one physical batch of its clipped per-example gradients.
    pub clipped_sum: usize,
    /// The noisy, divided gradient that the optimizer takes.
    pub noisy_gradient: usize,
}

/// The mask of one dropout layer, float32 `[microbatch × views, …]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MaskRole {
    /// Index into [`Plan::tensors`].
    pub tensor: usize,
    /// An element is kept with probability `threshold / 2^32`.
    pub threshold: u32,
    /// What a kept element is multiplied by: `2^32 / threshold`, in float32.
    pub scale: f32,
}

/// What the runtime reads and writes; indices into [`Plan::tensors`].
#[derive(Clone, Debug, PartialEq)]
pub struct Roles {
    /// Views of one physical batch's records, float32 `[microbatch × views, …]`.
    pub features: usize,
    /// Their labels `[microbatch × views]`: classes, int32, or numbers, float32.
    pub labels: usize,
    /// 1 for a real example, 0 for padding; float32 `[microbatch]`.
    pub mask: usize,
    /// Masks of dropout layers, in the order in which their words are drawn.
    pub masks: Vec<MaskRole>,
    /// 1 where a real example's gradient was finite; int32 `[microbatch]`.
    pub contributing: Option<usize>,
    /// Gradient norms before clipping, float32 `[microbatch]`; the runtime does not read them.
    pub norms: Option<usize>,
    /// Number of the step, 1 at the first; int32 `[1]`.
    pub step_number: Option<usize>,
    /// Trained parameters, in the order of the model file.
    pub parameters: Vec<ParameterRole>,
    /// Tensors that start at zero: the optimizer's state.
    pub zeroed: Vec<usize>,
}

/// Where a tensor's initial value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Initial {
    /// Index into [`Plan::tensors`].
    pub tensor: usize,
    /// Byte offset in `.myelin.params`.
    pub offset: usize,
}

/// What a record's label is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Label {
    /// A class, stored as int32, below this number.
    Class(u32),
    /// A number, stored as float32.
    Number {
        /// Least raw value.
        lower: f64,
        /// Largest raw value.
        upper: f64,
        /// The loss sees `raw × scale + offset`, in float32.
        scale: f64,
        /// See `scale`.
        offset: f64,
    },
}

impl Label {
    /// Element type of the labels of a physical batch.
    #[must_use]
    pub const fn dtype(self) -> TensorType {
        match self {
            Self::Class(_) => TensorType::Int32,
            Self::Number { .. } => TensorType::Float32,
        }
    }
}

/// What a record is, and how the model sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Data {
    /// Type of a raw feature: float32 or uint8.
    pub feature_type: TensorType,
    /// Features of a record.
    pub features: usize,
    /// What its label is.
    pub label: Label,
    /// Whether memory must not tell who was drawn: records are then brought to their slots instead of read where they lie.
    pub oblivious: bool,
    /// Room for this many records.
    pub max_records: usize,
    /// Bytes of a record: features, then the label in four bytes.
    pub record_bytes: usize,
    /// Least raw value, of all features or of each.
    pub lower: Vec<f64>,
    /// Largest raw value, of all features or of each.
    pub upper: Vec<f64>,
    /// The model sees `raw × scale + offset`, in float32.
    pub scale: Vec<f64>,
    /// See `scale`.
    pub offset: Vec<f64>,
}

/// How gradients are made no longer than the clipping norm, or an augmentation of records: a name, and numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// Its numbers; of a clipping rule × 10⁹.
    pub numbers: Vec<u64>,
}

/// The mechanism's numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Dp {
    /// The sampling rate is this over 2^64.
    pub sampling_threshold: u64,
    /// Most examples of a logical batch.
    pub capacity: usize,
    /// Records of a physical batch.
    pub microbatch: usize,
    /// Logical steps.
    pub steps: u32,
    /// Noise multiplier × 10⁹.
    pub noise_multiplier_e9: u64,
    /// How gradients are clipped: what the kernels do, for the event to say.
    pub clipping: Rule,
    /// Coefficients × 10⁹ of noise that is correlated over steps, where records take turns; none where they are drawn.
    pub correlation: Vec<u64>,
    /// What makes another view of a record at every step, in order.
    pub augment: Vec<Rule>,
    /// Views of a record at a step, over which its gradient is the mean: rows of features, labels and masks.
    pub views: usize,
    /// Clipping norm × 10⁹.
    pub clipping_norm_e9: u64,
    /// L2 sensitivity of the sum with all rounding × 10⁹.
    pub sensitivity_e9: u64,
    /// The public divisor of the noisy sum.
    pub expected_batch_size: u64,
    /// The grid that sums are rounded to.
    pub grid: f64,
}

/// The arena: one shared part, then lanes of equal size. A lane is what one physical batch is computed in, so that as many
/// are computed at once as there are lanes.
///
/// A tensor whose offset is below `shared_bytes` is shared; any other is declared where lane 0 has it, and is in every lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes of the shared part, a multiple of 64.
    pub shared_bytes: usize,
    /// Bytes of one lane, a multiple of 64.
    pub lane_bytes: usize,
    /// How many lanes, at least 1.
    pub lanes: usize,
}

impl Layout {
    /// Bytes of all parts together.
    #[must_use]
    pub const fn arena_bytes(&self) -> usize {
        self.shared_bytes + self.lanes * self.lane_bytes
    }

    /// Whether a tensor is in the shared part.
    #[must_use]
    pub const fn is_shared(&self, tensor: &Tensor) -> bool {
        tensor.offset < self.shared_bytes
    }
}

/// A plan that passed every check.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The arena's parts.
    pub layout: Layout,
    /// All tensors.
    pub tensors: Vec<Tensor>,
    /// Once at the beginning of a logical step: what depends on parameters only.
    pub prepare: Vec<Call>,
    /// One physical batch: clipped gradients, summed.
    pub step: Vec<Call>,
    /// Once per logical step: the optimizer.
    pub update: Vec<Call>,
    /// What the runtime reads and writes.
    pub roles: Roles,
    /// Initial values of parameters, and the values of constants.
    pub params: Vec<Initial>,
    /// The records.
    pub data: Data,
    /// The mechanism.
    pub dp: Dp,
    /// The model file's prefix: `u64` length and JSON; parameters follow in order, float32.
    pub model_header: Vec<u8>,
}

impl Plan {
    /// Numbers in all parameters together.
    #[must_use]
    pub fn parameter_count(&self) -> usize {
        let sizes = self.roles.parameters.iter();
        sizes
            .filter_map(|role| self.tensors.get(role.value))
            .map(|tensor| tensor.count)
            .sum()
    }

    /// Tensors that have a value from the image and are no trained parameter: nothing ever writes them.
    pub fn frozen(&self) -> impl Iterator<Item = usize> + '_ {
        let trained = |tensor| {
            self.roles
                .parameters
                .iter()
                .any(|role| role.value == tensor)
        };
        let tensors = self.params.iter().map(|initial| initial.tensor);
        tensors.filter(move |&tensor| !trained(tensor))
    }

    /// Rows of a physical batch: its records' views, each record's one after the other.
    #[must_use]
    pub const fn examples(&self) -> usize {
        self.dp.microbatch * self.dp.views
    }

    /// Physical batches of one logical step.
    #[must_use]
    pub const fn physical_batches(&self) -> usize {
        self.dp.capacity.div_ceil(self.dp.microbatch)
    }
}
