//! What generated code calls back, by the names that TVM gives it.

use core::ffi::c_void;
use core::sync::atomic::{AtomicI32, Ordering};

use crate::raised::RAISED;

/// Parts of an error message that are looked at.
const PARTS_LIMIT: i32 = 64;

/// Tasks of a parallel loop that leaves the number open: one per slot, whatever threads are in.
const TASKS: i32 = myelin_abi::SLOT_COUNT as i32;

/// `TVMParallelGroupEnv`.
#[repr(C)]
pub(crate) struct ParallelEnv {
    sync_handle: *mut c_void,
    pub(crate) tasks: i32,
}

type Lambda = unsafe extern "C" fn(i32, *mut ParallelEnv, *mut c_void) -> i32;

#[cfg_attr(myelin_image, unsafe(no_mangle))]
#[allow(non_snake_case, reason = "TVM's name")]
pub(crate) unsafe extern "C" fn TVMFFIErrorSetRaisedFromCStrParts(
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
pub(crate) unsafe extern "C" fn TVMFFIErrorSetRaisedFromCStr(_kind: *const u8, message: *const u8) {
    RAISED.clear();
    // SAFETY: the kernel gives a C string or null.
    unsafe { RAISED.append(message) };
}

pub(crate) unsafe extern "C" fn parallel_launch(
    lambda: Lambda,
    data: *mut c_void,
    tasks: i32,
) -> i32 {
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

pub(crate) unsafe extern "C" fn allocate(
    _: i32,
    _: i32,
    bytes: u64,
    _: i32,
    _: i32,
) -> *mut c_void {
    usize::try_from(bytes).map_or(core::ptr::null_mut(), |bytes| {
        crate::heap::allocate_workspace(bytes).cast()
    })
}

pub(crate) unsafe extern "C" fn free(_: i32, _: i32, workspace: *mut c_void) -> i32 {
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
    static __TVMBackendAllocWorkspace: unsafe extern "C" fn(
        i32,
        i32,
        u64,
        i32,
        i32,
    ) -> *mut c_void = super::allocate;

    #[unsafe(no_mangle)]
    #[allow(non_upper_case_globals, reason = "TVM's name")]
    static __TVMBackendFreeWorkspace: unsafe extern "C" fn(i32, i32, *mut c_void) -> i32 =
        super::free;
}
