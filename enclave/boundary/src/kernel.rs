//! Calls into generated code, and what generated code calls back.
//!
//! TVM's kernels take `DLTensor` pointers packed in `TVMFFIAny`. Which kernel runs is an index into the table that was linked
//! with the kernels; every tensor is checked to lie in the arena before the call. What a kernel does inside the tensors it
//! is given is trusted: kernels are measured and part of the TCB.

use alloc::string::String;
use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::Arena;

/// Most tensors of one call.
pub const KERNEL_ARGUMENTS_LIMIT: usize = 128;

/// Most dimensions of a tensor.
pub const RANK_LIMIT: usize = 8;

/// Bytes kept of a kernel's error message.
const MESSAGE_LIMIT: usize = 240;

/// Type index of a `DLTensor*` in a `TVMFFIAny`.
const TYPE_DLTENSOR: i32 = 7;

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
    const fn dlpack(self) -> DlDataType {
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

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelError {
    /// No kernel of that index.
    Unknown,
    /// Argument `n` (inputs first) is not wholly inside the arena, not aligned, of too high a rank or too large; or there are
    /// too many arguments (`n` is then the limit).
    Argument(usize),
    /// The kernel answered that it failed; its message is made of constants of its code, never of data.
    Failed(String),
}

/// The image's kernels, by index.
pub struct Kernels(Table);

enum Table {
    #[cfg_attr(not(myelin_image), allow(dead_code, reason = "made in images"))]
    Native(&'static [KernelFn]),
    #[cfg(not(myelin_image))]
    Model(std::vec::Vec<ModelKernel>),
}

/// A kernel written in Rust, standing in for a generated one in tests of the crates above: gets the call's arguments (inputs,
/// then outputs) and answers whether it succeeded.
#[cfg(not(myelin_image))]
pub type ModelKernel = fn(&mut Arena, &[ModelArgument]) -> bool;

/// One argument of a [`ModelKernel`].
#[cfg(not(myelin_image))]
#[derive(Clone, Debug)]
pub struct ModelArgument {
    /// Byte offset in the arena.
    pub offset: usize,
    /// Dimensions.
    pub shape: std::vec::Vec<i64>,
}

pub(crate) type KernelFn =
    unsafe extern "C" fn(*mut c_void, *const Any, i32, *mut Any) -> i32;

#[repr(C)]
#[derive(Clone, Copy)]
struct DlDataType {
    code: u8,
    bits: u8,
    lanes: u16,
}

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
    #[cfg(myelin_image)]
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

    /// Runs kernel `index` on tensors of the arena, inputs first.
    ///
    /// # Errors
    /// [`KernelError`]; after `Failed` the outputs hold anything.
    pub fn call(
        &self,
        arena: &mut Arena,
        index: usize,
        tensors: &[TensorRef<'_>],
    ) -> Result<(), KernelError> {
        match &self.0 {
            Table::Native(table) => {
                let kernel = *table.get(index).ok_or(KernelError::Unknown)?;
                call_native(arena, kernel, tensors)
            }
            #[cfg(not(myelin_image))]
            Table::Model(table) => {
                let kernel = table.get(index).ok_or(KernelError::Unknown)?;
                for (argument, tensor) in tensors.iter().enumerate() {
                    place(arena, tensor).ok_or(KernelError::Argument(argument))?;
                }
                let arguments: std::vec::Vec<_> = tensors
                    .iter()
                    .map(|t| ModelArgument {
                        offset: t.offset,
                        shape: t.shape.to_vec(),
                    })
                    .collect();
                kernel(arena, &arguments)
                    .then_some(())
                    .ok_or_else(|| KernelError::Failed("model kernel".into()))
            }
        }
    }
}

/// A tensor's address, or `None` where it is not one that the arena holds.
fn place(arena: &mut Arena, tensor: &TensorRef<'_>) -> Option<*mut u8> {
    if tensor.shape.len() > RANK_LIMIT {
        return None;
    }
    let bytes = tensor.shape.iter().try_fold(tensor.dtype.bytes(), |bytes, &n| {
        bytes.checked_mul(usize::try_from(n).ok()?)
    })?;
    arena.region(tensor.offset, bytes)
}

fn call_native(
    arena: &mut Arena,
    kernel: KernelFn,
    tensors: &[TensorRef<'_>],
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
    for (index, ((tensor, argument), any)) in
        tensors.iter().zip(&mut arguments).zip(&mut packed).enumerate()
    {
        let data = place(arena, tensor).ok_or(KernelError::Argument(index))?;
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
    // convention asks and live until it returns; every tensor lies in the arena, which is borrowed mutably, so no Rust
    // reference into it exists.
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

/// The message that a kernel raised last.
struct Raised {
    busy: AtomicBool,
    text: UnsafeCell<([u8; MESSAGE_LIMIT], usize)>,
}

// SAFETY: `text` is only touched between winning `busy` and giving it back.
unsafe impl Sync for Raised {}

static RAISED: Raised = Raised {
    busy: AtomicBool::new(false),
    text: UnsafeCell::new(([0; MESSAGE_LIMIT], 0)),
};

impl Raised {
    fn with<R>(&self, f: impl FnOnce(&mut [u8; MESSAGE_LIMIT], &mut usize) -> R) -> R {
        while self.busy.swap(true, Ordering::Acquire) {
            core::hint::spin_loop();
        }
        // SAFETY: `busy` was won.
        let (text, length) = unsafe { &mut *self.text.get() };
        let result = f(text, length);
        self.busy.store(false, Ordering::Release);
        result
    }

    fn clear(&self) {
        self.with(|_, length| *length = 0);
    }

    fn take(&self) -> String {
        self.with(|text, length| {
            let kept = text.get(..core::mem::take(length)).unwrap_or(&[]);
            // Kernel messages are ASCII; what is not becomes '?'.
            kept.iter()
                .map(|&b| if b.is_ascii_graphic() || b == b' ' { b as char } else { '?' })
                .collect()
        })
    }

    /// Appends a C string, cut at the limit.
    ///
    /// # Safety
    /// `part` is null or a C string.
    unsafe fn append(&self, part: *const u8) {
        if part.is_null() {
            return;
        }
        self.with(|text, length| {
            let mut at = part;
            while *length < MESSAGE_LIMIT {
                // SAFETY: every byte up to the terminator is readable.
                let byte = unsafe { *at };
                if byte == 0 {
                    break;
                }
                text[*length] = byte;
                *length += 1;
                at = at.wrapping_add(1);
            }
        });
    }
}

/// What generated code calls back, by the names that TVM gives it.
#[cfg(any(myelin_image, test))]
mod callbacks {
    use core::ffi::c_void;
    use core::sync::atomic::{AtomicI32, Ordering};

    use super::RAISED;

    /// Parts of an error message that are looked at.
    const PARTS_LIMIT: i32 = 64;

    /// Tasks of a parallel loop that leaves the number open: one per slot, whatever threads are in.
    const TASKS: i32 = myelin_abi::SLOT_COUNT as i32;

    /// `TVMParallelGroupEnv`.
    #[repr(C)]
    pub(super) struct ParallelEnv {
        sync_handle: *mut c_void,
        pub(super) tasks: i32,
    }

    type Lambda = unsafe extern "C" fn(i32, *mut ParallelEnv, *mut c_void) -> i32;

    #[cfg_attr(myelin_image, unsafe(no_mangle))]
    #[allow(non_snake_case, reason = "TVM's name")]
    pub(super) unsafe extern "C" fn TVMFFIErrorSetRaisedFromCStrParts(
        _kind: *const u8,
        parts: *const *const u8,
        count: i32,
    ) {
        RAISED.clear();
        for index in 0..count.clamp(0, PARTS_LIMIT) as usize {
            // SAFETY: the kernel gives `count` C strings or nulls.
            unsafe { RAISED.append(*parts.add(index)) };
        }
    }

    #[cfg_attr(myelin_image, unsafe(no_mangle))]
    #[allow(non_snake_case, reason = "TVM's name")]
    pub(super) unsafe extern "C" fn TVMFFIErrorSetRaisedFromCStr(_kind: *const u8, message: *const u8) {
        RAISED.clear();
        // SAFETY: the kernel gives a C string or null.
        unsafe { RAISED.append(message) };
    }

    pub(super) unsafe extern "C" fn parallel_launch(lambda: Lambda, data: *mut c_void, tasks: i32) -> i32 {
        struct Shared(*mut c_void);
        // SAFETY: the kernel made the closure to be used by many threads at once.
        unsafe impl Sync for Shared {}
        impl Shared {
            fn get(&self) -> *mut c_void {
                self.0
            }
        }
        let data = Shared(data);
        let tasks = if tasks > 0 { tasks } else { TASKS };
        let failed = AtomicI32::new(0);
        crate::pool().run(tasks as usize, &|index| {
            let mut env = ParallelEnv {
                sync_handle: core::ptr::null_mut(),
                tasks,
            };
            // SAFETY: the kernel gives a function of this type and its closure, which lives until the launch returns; each
            // index below `tasks` runs once.
            let code = unsafe { lambda(index as i32, &raw mut env, data.get()) };
            if code != 0 {
                failed.store(code, Ordering::Relaxed);
            }
        });
        failed.into_inner()
    }

    pub(super) unsafe extern "C" fn allocate(_: i32, _: i32, bytes: u64, _: i32, _: i32) -> *mut c_void {
        usize::try_from(bytes).map_or(core::ptr::null_mut(), |bytes| {
            crate::heap::allocate_workspace(bytes).cast()
        })
    }

    pub(super) unsafe extern "C" fn free(_: i32, _: i32, workspace: *mut c_void) -> i32 {
        // SAFETY: kernels free what they allocated, once.
        unsafe { crate::heap::free_workspace(workspace.cast()) };
        0
    }

    // Kernels call through these variables; a strong definition wins over the weak empty one in each object.
    #[cfg(myelin_image)]
    mod variables {
        use super::{Lambda, c_void};

        #[unsafe(no_mangle)]
        #[allow(non_upper_case_globals, reason = "TVM's name")]
        static __TVMBackendParallelLaunch: unsafe extern "C" fn(Lambda, *mut c_void, i32) -> i32 =
            super::parallel_launch;

        #[unsafe(no_mangle)]
        #[allow(non_upper_case_globals, reason = "TVM's name")]
        static __TVMBackendAllocWorkspace: unsafe extern "C" fn(i32, i32, u64, i32, i32) -> *mut c_void =
            super::allocate;

        #[unsafe(no_mangle)]
        #[allow(non_upper_case_globals, reason = "TVM's name")]
        static __TVMBackendFreeWorkspace: unsafe extern "C" fn(i32, i32, *mut c_void) -> i32 = super::free;
    }
}
