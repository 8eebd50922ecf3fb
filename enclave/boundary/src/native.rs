//! Generated kernels in an ordinary process, without an image: for benchmarks, which compare the two.

use core::alloc::Layout;
use core::ffi::c_void;
use core::ptr::NonNull;

use crate::kernel::KernelFn;
use crate::{Arena, Kernels, Machine, callbacks};

/// What kernels call back, as addresses: the two ways to raise an error (from parts, from one text), parallel launch,
/// allocation and freeing of workspaces, in this order.
#[must_use]
pub fn callback_addresses() -> [*const c_void; 5] {
    [
        callbacks::TVMFFIErrorSetRaisedFromCStrParts as *const c_void,
        callbacks::TVMFFIErrorSetRaisedFromCStr as *const c_void,
        callbacks::parallel_launch as *const c_void,
        callbacks::allocate as *const c_void,
        callbacks::free as *const c_void,
    ]
}

/// Size of a huge page.
const HUGE_PAGE_BYTES: usize = 2 << 20;

unsafe extern "C" {
    fn madvise(start: *mut c_void, bytes: usize, advice: i32) -> i32;
}

/// Zeroed memory that is never freed, of huge pages where the system has them: the loader asks for the same.
fn zeroed(bytes: usize) -> &'static mut [u8] {
    const MADV_HUGEPAGE: i32 = 14;
    let Ok(layout) = Layout::from_size_align(bytes.max(1), HUGE_PAGE_BYTES) else {
        return &mut [];
    };
    // SAFETY: the layout's size is not zero. The advice is on whole pages of that block or its last part of one, changes no
    // contents, and may be refused. Every byte is written before the slice is made, which alone refers to them.
    unsafe {
        let start = alloc::alloc::alloc(layout);
        if start.is_null() {
            alloc::alloc::handle_alloc_error(layout);
        }
        madvise(start.cast(), bytes, MADV_HUGEPAGE);
        start.write_bytes(0, bytes);
        core::slice::from_raw_parts_mut(start, bytes)
    }
}

/// A machine of a plan and kernels that were loaded into this process.
///
/// # Safety
/// Every address of `table` is a kernel as docs/abi.md has them, built for this processor, whose callbacks are set to
/// [`callback_addresses`], and stays loaded.
#[must_use]
pub unsafe fn machine(
    plan: std::vec::Vec<u8>,
    params: std::vec::Vec<u8>,
    arena_bytes: usize,
    dataset_bytes: usize,
    table: &[*const c_void],
) -> Machine {
    let kernels: std::vec::Vec<KernelFn> = table
        .iter()
        // SAFETY: per the contract.
        .map(|&address| unsafe { core::mem::transmute::<*const c_void, KernelFn>(address) })
        .collect();
    Machine {
        // SAFETY: zeroed, aligned to more than 64 bytes, never freed, and nobody else's.
        arena: unsafe { Arena::new(NonNull::from(zeroed(arena_bytes)).cast(), arena_bytes) },
        dataset: zeroed(dataset_bytes),
        kernels: Kernels::native(kernels.leak()),
        plan: plan.leak(),
        params: params.leak(),
    }
}
