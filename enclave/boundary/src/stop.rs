//! Stopping: after a panic or a fatal error the enclave wipes itself and never answers anything else.
//!
//! The thread that stops marks the enclave as stopped and leaves at once, whatever it was doing. Others notice when they
//! look for work or wait. The last thread out wipes every byte of `.bss` (heap, arena, dataset, statics), so no thread's
//! memory disappears under it. What must outlive that, a few control words, lies in `.data`.

use core::sync::atomic::{AtomicU32, Ordering};

/// 1 once stopped. In `.data`, so that wiping `.bss` does not bring the enclave back.
#[cfg_attr(myelin_image, unsafe(link_section = ".data.myelin_control"))]
static STOPPED: AtomicU32 = AtomicU32::new(0);

/// Whether the enclave has stopped itself.
#[inline]
#[must_use]
pub fn is_stopped() -> bool {
    STOPPED.load(Ordering::Acquire) != 0
}

/// Stops the enclave for good and leaves it, from whatever depth.
///
/// Outside an image there is nothing to leave, so this panics.
pub fn stop() -> ! {
    #[cfg(myelin_image)]
    {
        STOPPED.store(1, Ordering::Release);
        crate::entry::leave_stopped()
    }
    #[cfg(not(myelin_image))]
    {
        // Tests share one process: marking it as stopped would stop them all.
        #[allow(clippy::panic, reason = "the only way to stop outside an image")]
        {
            panic!("the enclave stopped itself")
        }
    }
}

/// Marks the enclave as stopped without leaving; the entry's exit path does the rest.
#[cfg(any(myelin_image, test))]
pub(crate) fn mark_stopped() {
    STOPPED.store(1, Ordering::Release);
}

#[cfg(myelin_image)]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The message is not looked at: it may hold values, and the host learns nothing but that the enclave stopped.
    stop()
}

/// What the precompiled `alloc` crate names for unwinding. An image aborts on panic, so nothing ever unwinds to it.
#[cfg(myelin_image)]
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    stop()
}
