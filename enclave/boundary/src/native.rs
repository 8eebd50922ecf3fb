//! Generated kernels in an ordinary process, without an image: for benchmarks, which compare the two.

use core::ffi::c_void;

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
        arena: Arena::on_heap(arena_bytes),
        dataset: std::vec![0; dataset_bytes].leak(),
        kernels: Kernels::native(kernels.leak()),
        plan: plan.leak(),
        params: params.leak(),
    }
}
