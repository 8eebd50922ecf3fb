//! Calls into generated code, and what generated code calls back.
//!
//! TVM's kernels take `DLTensor` pointers packed in `TVMFFIAny`. Which kernel runs is an index into the table that was linked
//! with the kernels; every tensor is checked to lie in the arena before the call. What a kernel does inside the tensors it
//! is given is trusted: kernels are measured and part of the TCB.

use alloc::string::String;
use core::ffi::c_void;
use core::mem::MaybeUninit;

use crate::raised::RAISED;
use crate::tensor::DlDataType;
use crate::{Memory, RANK_LIMIT, TensorRef};

/// Most tensors of one call.
pub const KERNEL_ARGUMENTS_LIMIT: usize = 128;

/// Type index of a `DLTensor*` in a `TVMFFIAny`.
const TYPE_DLTENSOR: i32 = 7;

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelError {
    /// No kernel of that index.
    Unknown,
    /// Argument `n` (inputs first) is not wholly inside one part of the memory, not aligned, of too high a rank or too large,
    /// or would be written and is only to be read; or there are too many arguments (`n` is then the limit).
    Argument(usize),
    /// The kernel answered that it failed; its message is made of constants of its code, never of data.
    Failed(String),
}

/// The image's kernels, by index.
pub struct Kernels(Table);

enum Table {
    #[cfg_attr(
        not(any(myelin_image, test, feature = "native")),
        allow(dead_code, reason = "made in images and this crate's tests")
    )]
    Native(&'static [KernelFn]),
    #[cfg(not(myelin_image))]
    Model(std::vec::Vec<ModelKernel>),
}

/// A kernel written in Rust, standing in for a generated one in tests of the crates above: gets the call's arguments (inputs,
/// then outputs) and answers whether it succeeded.
#[cfg(not(myelin_image))]
pub type ModelKernel = fn(&mut Memory<'_>, &[ModelArgument]) -> bool;

/// One argument of a [`ModelKernel`].
#[cfg(not(myelin_image))]
#[derive(Clone, Debug)]
pub struct ModelArgument {
    /// Byte offset in the arena.
    pub offset: usize,
    /// Dimensions.
    pub shape: std::vec::Vec<i64>,
}

pub(crate) type KernelFn = unsafe extern "C" fn(*mut c_void, *const Any, i32, *mut Any) -> i32;

#[repr(C)]
struct DlTensor {
    data: *mut c_void,
    device_type: i32,
    device_id: i32,
    rank: i32,
    dtype: DlDataType,
    shape: *const i64,
    strides: *const i64,
    byte_offset: u64,
}

/// `TVMFFIAny`: a type index and a value or pointer.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Any {
    type_index: i32,
    padding: u32,
    value: u64,
}

struct Argument {
    tensor: DlTensor,
    strides: [i64; RANK_LIMIT],
}

impl Kernels {
    #[cfg(any(myelin_image, test, feature = "native"))]
    pub(crate) fn native(table: &'static [KernelFn]) -> Self {
        Self(Table::Native(table))
    }

    /// Kernels written in Rust, for tests.
    #[cfg(not(myelin_image))]
    #[must_use]
    pub fn model(kernels: std::vec::Vec<ModelKernel>) -> Self {
        Self(Table::Model(kernels))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Table::Native(table) => table.len(),
            #[cfg(not(myelin_image))]
            Table::Model(table) => table.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Runs kernel `index` on tensors of a memory: the first `inputs` are read, the others written.
    ///
    /// # Errors
    /// [`KernelError`]; after `Failed` the outputs hold anything.
    pub fn call(
        &self,
        memory: &mut Memory<'_>,
        index: usize,
        tensors: &[TensorRef<'_>],
        inputs: usize,
    ) -> Result<(), KernelError> {
        match &self.0 {
            Table::Native(table) => {
                let kernel = *table.get(index).ok_or(KernelError::Unknown)?;
                call_native(memory, kernel, tensors, inputs)
            }
            #[cfg(not(myelin_image))]
            Table::Model(table) => {
                let kernel = table.get(index).ok_or(KernelError::Unknown)?;
                for (argument, tensor) in tensors.iter().enumerate() {
                    place(memory, tensor, argument >= inputs)
                        .ok_or(KernelError::Argument(argument))?;
                }
                let arguments: std::vec::Vec<_> = tensors
                    .iter()
                    .map(|t| ModelArgument {
                        offset: t.offset,
                        shape: t.shape.to_vec(),
                    })
                    .collect();
                kernel(memory, &arguments)
                    .then_some(())
                    .ok_or_else(|| KernelError::Failed("model kernel".into()))
            }
        }
    }
}

/// A tensor's address, or `None` where it is not one that the memory holds, or may not be written and is to be.
fn place(memory: &mut Memory<'_>, tensor: &TensorRef<'_>, written: bool) -> Option<*mut u8> {
    if tensor.shape.len() > RANK_LIMIT {
        return None;
    }
    let bytes = tensor
        .shape
        .iter()
        .try_fold(tensor.dtype.bytes(), |bytes, &n| {
            bytes.checked_mul(usize::try_from(n).ok()?)
        })?;
    memory.region(tensor.offset, bytes, written)
}

fn call_native(
    memory: &mut Memory<'_>,
    kernel: KernelFn,
    tensors: &[TensorRef<'_>],
    inputs: usize,
) -> Result<(), KernelError> {
    if tensors.len() > KERNEL_ARGUMENTS_LIMIT {
        return Err(KernelError::Argument(KERNEL_ARGUMENTS_LIMIT));
    }
    let mut arguments = [const { MaybeUninit::<Argument>::uninit() }; KERNEL_ARGUMENTS_LIMIT];
    let mut packed = [Any {
        type_index: 0,
        padding: 0,
        value: 0,
    }; KERNEL_ARGUMENTS_LIMIT];
    for (index, ((tensor, argument), any)) in tensors
        .iter()
        .zip(&mut arguments)
        .zip(&mut packed)
        .enumerate()
    {
        let data = place(memory, tensor, index >= inputs).ok_or(KernelError::Argument(index))?;
        let mut strides = [1_i64; RANK_LIMIT];
        for axis in (1..tensor.shape.len()).rev() {
            // Cannot overflow: the product of all dimensions was checked to fit the arena, unless one is zero.
            strides[axis - 1] = strides[axis].saturating_mul(tensor.shape[axis]);
        }
        let argument = argument.write(Argument {
            tensor: DlTensor {
                data: data.cast(),
                device_type: 1,
                device_id: 0,
                rank: tensor.shape.len() as i32,
                dtype: tensor.dtype.dlpack(),
                shape: tensor.shape.as_ptr(),
                strides: core::ptr::null(),
                byte_offset: 0,
            },
            strides,
        });
        argument.tensor.strides = argument.strides.as_ptr();
        any.type_index = TYPE_DLTENSOR;
        any.value = (&raw const argument.tensor).expose_provenance() as u64;
    }
    let mut result = Any {
        type_index: 0,
        padding: 0,
        value: 0,
    };
    RAISED.clear();
    // SAFETY: `kernel` comes from the linked table and has this type (docs/abi.md). The arguments are as TVM's calling
    // convention asks and live until it returns; every tensor lies in the memory, which is borrowed mutably, so no Rust
    // reference to what is written exists.
    let code = unsafe {
        kernel(
            core::ptr::null_mut(),
            packed.as_ptr(),
            tensors.len() as i32,
            &raw mut result,
        )
    };
    if code == 0 {
        Ok(())
    } else {
        Err(KernelError::Failed(RAISED.take()))
    }
}

#[cfg(test)]
#[path = "kernel_tests.rs"]
mod tests;
