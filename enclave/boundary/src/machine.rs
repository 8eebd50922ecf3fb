//! All of an image's resources, taken once.

use crate::{Arena, Kernels};

/// What an image has: memory for tensors, memory for the dataset, kernels, the plan and the initial parameters.
///
/// The fields are apart so that each can be borrowed alone.
pub struct Machine {
    /// Tensors live here.
    pub arena: Arena,
    /// The dataset lives here.
    pub dataset: &'static mut [u8],
    /// The generated kernels.
    pub kernels: Kernels,
    /// The section `.myelin.plan`.
    pub plan: &'static [u8],
    /// The section `.myelin.params`.
    pub params: &'static [u8],
}

#[cfg(not(myelin_image))]
impl Machine {
    /// Outside an image there is none.
    #[must_use]
    pub const fn take() -> Option<Self> {
        None
    }

    /// A machine made of parts, for tests.
    #[must_use]
    pub fn model(
        plan: std::vec::Vec<u8>,
        params: std::vec::Vec<u8>,
        arena_bytes: usize,
        dataset_bytes: usize,
        kernels: Kernels,
    ) -> Self {
        Self {
            arena: Arena::on_heap(arena_bytes),
            dataset: std::vec![0; dataset_bytes].leak(),
            kernels,
            plan: plan.leak(),
            params: params.leak(),
        }
    }
}

#[cfg(myelin_image)]
mod image {
    use core::ptr::NonNull;
    use core::sync::atomic::{AtomicBool, Ordering};

    use super::Machine;
    use crate::kernel::KernelFn;
    use crate::{Arena, Kernels};

    // Defined by the image's generated object and the linker script.
    unsafe extern "C" {
        static mut myelin_arena: u8;
        static myelin_arena_bytes: u64;
        static mut myelin_dataset: u8;
        static myelin_dataset_bytes: u64;
        static myelin_plan_start: u8;
        static myelin_plan_end: u8;
        static myelin_params_start: u8;
        static myelin_params_end: u8;
        static myelin_kernel_table: KernelFn;
        static myelin_kernel_count: u64;
    }

    static TAKEN: AtomicBool = AtomicBool::new(false);

    impl Machine {
        /// The image's machine, the first time; `None` afterwards.
        #[must_use]
        pub fn take() -> Option<Self> {
            if TAKEN.swap(true, Ordering::AcqRel) {
                return None;
            }
            // SAFETY: the generated object defines the two regions in `.bss` with the sizes it says, the arena 64-byte
            // aligned, for nothing else, and this runs once. Plan, parameters and table are read-only and as large as
            // their symbols say.
            unsafe {
                Some(Self {
                    arena: Arena::new(
                        NonNull::new_unchecked(&raw mut myelin_arena),
                        myelin_arena_bytes as usize,
                    ),
                    dataset: core::slice::from_raw_parts_mut(
                        &raw mut myelin_dataset,
                        myelin_dataset_bytes as usize,
                    ),
                    kernels: Kernels::native(core::slice::from_raw_parts(
                        &raw const myelin_kernel_table,
                        myelin_kernel_count as usize,
                    )),
                    plan: between(&raw const myelin_plan_start, &raw const myelin_plan_end),
                    params: between(&raw const myelin_params_start, &raw const myelin_params_end),
                })
            }
        }
    }

    /// # Safety
    /// Both are bounds of one read-only region of the image.
    unsafe fn between(start: *const u8, end: *const u8) -> &'static [u8] {
        // SAFETY: per the contract.
        unsafe { core::slice::from_raw_parts(start, end.addr() - start.addr()) }
    }
}
