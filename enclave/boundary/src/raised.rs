//! The error message that a kernel raised last, kept bounded.

use alloc::string::String;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

/// Bytes kept of a kernel's error message.
const MESSAGE_LIMIT: usize = 240;

/// The message that a kernel raised last.
pub(crate) struct Raised {
    busy: AtomicBool,
    text: UnsafeCell<([u8; MESSAGE_LIMIT], usize)>,
}

// SAFETY: `text` is only touched between winning `busy` and giving it back.
unsafe impl Sync for Raised {}

pub(crate) static RAISED: Raised = Raised {
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

    pub(crate) fn clear(&self) {
        self.with(|_, length| *length = 0);
    }

    pub(crate) fn take(&self) -> String {
        self.with(|text, length| {
            let kept = text.get(..core::mem::take(length)).unwrap_or(&[]);
            // Kernel messages are ASCII; what is not becomes '?'.
            kept.iter()
                .map(|&b| {
                    if b.is_ascii_graphic() || b == b' ' {
                        b as char
                    } else {
                        '?'
                    }
                })
                .collect()
        })
    }

    /// Appends a C string, cut at the limit.
    ///
    /// # Safety
    /// `part` is null or a C string.
    #[cfg(any(myelin_image, test, feature = "native"))]
    pub(crate) unsafe fn append(&self, part: *const u8) {
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
