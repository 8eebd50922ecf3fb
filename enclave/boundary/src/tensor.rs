//! Tensors as kernels see them.

/// Most dimensions of a tensor.
pub const RANK_LIMIT: usize = 8;

/// Element type of a tensor; the numbers are the plan's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Dtype {
    /// IEEE 754 binary32.
    Float32 = 0,
    /// Signed, 32 bits.
    Int32 = 1,
    /// Unsigned, 8 bits.
    Uint8 = 2,
    /// Signed, 64 bits.
    Int64 = 3,
    /// One byte, 0 or 1.
    Bool = 4,
}

impl Dtype {
    /// Size of an element in bytes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Float32 | Self::Int32 => 4,
            Self::Uint8 | Self::Bool => 1,
            Self::Int64 => 8,
        }
    }

    /// DLPack's type code, bits and lanes.
    pub(crate) const fn dlpack(self) -> DlDataType {
        let (code, bits) = match self {
            Self::Float32 => (2, 32),
            Self::Int32 => (0, 32),
            Self::Uint8 => (1, 8),
            Self::Int64 => (0, 64),
            Self::Bool => (6, 8),
        };
        DlDataType {
            code,
            bits,
            lanes: 1,
        }
    }
}

/// A tensor in the arena: 64-byte aligned, row-major, no gaps.
#[derive(Clone, Copy, Debug)]
pub struct TensorRef<'a> {
    /// Byte offset in the arena.
    pub offset: usize,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, at most [`RANK_LIMIT`].
    pub shape: &'a [i64],
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct DlDataType {
    pub(crate) code: u8,
    pub(crate) bits: u8,
    pub(crate) lanes: u16,
}
