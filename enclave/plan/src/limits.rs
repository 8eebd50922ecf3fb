//! The most of everything in a plan.

/// Most bytes of the plan itself.
pub const PLAN_BYTES_LIMIT: usize = 16 << 20;
/// Most bytes of the arena: what an image has below 2 GiB, less the rest of it.
pub const ARENA_BYTES_LIMIT: u64 = 0x6000_0000;
/// Most lanes: one per thread that a host can lend, and its own.
pub const LANES_LIMIT: usize = 16;
/// Most tensors.
pub const TENSORS_LIMIT: usize = 1 << 14;
/// Most dimensions of a tensor.
pub const RANK_LIMIT: usize = 8;
/// Most calls of `prepare`, of `step`, and of `update`.
pub const CALLS_LIMIT: usize = 1 << 14;
/// Most inputs and outputs of a call together.
pub const ARGUMENTS_LIMIT: usize = 128;
/// Most parameters (tensors, not numbers).
pub const PARAMETERS_LIMIT: usize = 1 << 12;
/// Most dropout layers.
pub const MASKS_LIMIT: usize = 1 << 10;
/// Most groups of 256 words of one example's masks: as many as a stream of the generator has.
pub const MASK_GROUPS_LIMIT: usize = 1 << 26;
/// Most coefficients of correlated noise.
pub const BANDS_LIMIT: usize = 64;
/// Most numbers of a clipping rule.
pub const CLIPPING_NUMBERS_LIMIT: usize = 1 << 10;
/// Most augmentations that follow each other.
pub const AUGMENTATIONS_LIMIT: usize = 8;
/// Most pixels that a crop moves an image by.
pub const PADDING_LIMIT: u64 = 255;
/// Most views of a record.
pub const VIEWS_LIMIT: usize = 1024;
/// Most bytes of a parameter's name.
pub const NAME_BYTES_LIMIT: usize = 256;
/// Most numbers in a record.
pub const FEATURES_LIMIT: u64 = 1 << 24;
/// Most records.
pub const RECORDS_LIMIT: u64 = 1 << 31;
/// Most bytes of the safetensors prefix.
pub const MODEL_HEADER_BYTES_LIMIT: usize = 1 << 20;
