//! A static value that one thread at a time may use.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

/// A static cell for the enclave's state: made on first use, never used by two threads at once.
pub struct Owned<T> {
    busy: AtomicBool,
    value: UnsafeCell<Option<T>>,
}

// SAFETY: `value` is only touched between winning `busy` and giving it back, so by one thread at a time; `T: Send` lets it be
// touched by different threads in turn.
unsafe impl<T: Send> Sync for Owned<T> {}

impl<T> Owned<T> {
    /// An empty cell.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            busy: AtomicBool::new(false),
            value: UnsafeCell::new(None),
        }
    }

    /// Runs `f` on the value, or answers `None` at once where it is in use (by another thread, or further up this one's
    /// stack).
    pub fn with<R>(&self, f: impl FnOnce(&mut Option<T>) -> R) -> Option<R> {
        if self.busy.swap(true, Ordering::Acquire) {
            return None;
        }
        // SAFETY: `busy` was won, so no other reference exists until it is given back below. Where `f` unwinds (tests only)
        // the cell stays busy for ever.
        let result = f(unsafe { &mut *self.value.get() });
        self.busy.store(false, Ordering::Release);
        Some(result)
    }
}

impl<T> Default for Owned<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_at_a_time() {
        static CELL: Owned<u32> = Owned::new();
        let outer = CELL.with(|value| {
            *value = Some(1);
            CELL.with(|_| ())
        });
        assert_eq!(outer, Some(None));
        assert_eq!(CELL.with(|value| *value), Some(Some(1)));
    }
}
