//! The kernels' memory: one region, handed out as checked, typed slices.

use core::ptr::NonNull;

use zeroize::Zeroize;

mod sealed {
    pub trait Sealed {}
}

/// A type that any bit pattern is a value of: what tensors hold.
pub trait Element: sealed::Sealed + Copy + Send + Sync + 'static {}

macro_rules! elements {
    ($($t:ty),*) => { $(impl sealed::Sealed for $t {} impl Element for $t {})* };
}
elements!(f32, i32, i64, u8);

/// A zeroed region of memory, 64-byte aligned, for tensors.
///
/// It is the only owner of its bytes. Slices borrow it as Rust's rules demand; kernels get raw pointers into it, and only
/// through a mutable borrow, so no slice lives while a kernel runs.
pub struct Arena {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the arena owns its bytes, which are plain numbers, and hands them out by ordinary borrows.
unsafe impl Send for Arena {}
// SAFETY: as above; a shared arena only gives shared slices.
unsafe impl Sync for Arena {}

impl Arena {
    /// # Safety
    /// `bytes` bytes at `base` are initialised, 64-byte aligned, live as long as the program and are used by nothing else.
    pub(crate) unsafe fn new(base: NonNull<u8>, bytes: usize) -> Self {
        Self { base, bytes }
    }

    /// An arena on the heap, for tests.
    #[cfg(not(myelin_image))]
    #[must_use]
    pub fn on_heap(bytes: usize) -> Self {
        #[repr(C, align(64))]
        #[derive(Clone, Copy)]
        struct Line([u8; 64]);
        let lines = std::vec![Line([0; 64]); bytes.div_ceil(64).max(1)].leak();
        // SAFETY: leaked memory is initialised, aligned as `Line` and nobody else's.
        unsafe { Self::new(NonNull::from(lines).cast(), bytes) }
    }

    /// Size in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// `count` elements from byte `offset`, or `None` where they are not all inside or not aligned.
    #[must_use]
    pub fn view<T: Element>(&self, offset: usize, count: usize) -> Option<&[T]> {
        let pointer = self.checked::<T>(offset, count)?;
        // SAFETY: inside, aligned and initialised (`checked`); any bits are a value of `T`; shared as `self` is.
        Some(unsafe { core::slice::from_raw_parts(pointer, count) })
    }

    /// As [`Arena::view`], to write.
    #[must_use]
    pub fn view_mut<T: Element>(&mut self, offset: usize, count: usize) -> Option<&mut [T]> {
        let pointer = self.checked::<T>(offset, count)?;
        // SAFETY: as in `view`; borrowed mutably as `self` is.
        Some(unsafe { core::slice::from_raw_parts_mut(pointer, count) })
    }

    /// Zeroes all of it, in a way that is not optimised away.
    pub fn wipe(&mut self) {
        // SAFETY: the arena's own bytes, borrowed mutably.
        unsafe { core::slice::from_raw_parts_mut(self.base.as_ptr(), self.bytes) }.zeroize();
    }

    fn checked<T: Element>(&self, offset: usize, count: usize) -> Option<*mut T> {
        let bytes = count.checked_mul(size_of::<T>())?;
        if offset.checked_add(bytes)? > self.bytes {
            return None;
        }
        // SAFETY: `offset` is at most the arena's size.
        let pointer = unsafe { self.base.as_ptr().add(offset) }.cast::<T>();
        pointer.is_aligned().then_some(pointer)
    }

    /// Address of a region for a kernel, or `None` where it is not inside or not 64-byte aligned.
    pub(crate) fn region(&mut self, offset: usize, bytes: usize) -> Option<*mut u8> {
        let pointer = self.checked::<u8>(offset, bytes)?;
        pointer.addr().is_multiple_of(64).then_some(pointer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_stay_inside_and_aligned() {
        let mut arena = Arena::on_heap(256);
        arena
            .view_mut::<f32>(64, 4)
            .unwrap()
            .copy_from_slice(&[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(arena.view::<f32>(68, 2), Some(&[2.0, 3.0][..]));
        assert_eq!(arena.view::<f32>(0, 64).map(<[f32]>::len), Some(64));
        assert!(arena.view::<f32>(0, 65).is_none());
        assert!(arena.view::<f32>(2, 1).is_none());
        assert!(arena.view::<i64>(0, usize::MAX / 4).is_none());
        assert!(arena.view::<u8>(usize::MAX, 2).is_none());
        assert!(arena.region(32, 8).is_none());
        assert!(arena.region(192, 64).is_some());
        assert!(arena.region(192, 65).is_none());
        arena.wipe();
        assert_eq!(arena.view::<u8>(0, 256), Some(&[0; 256][..]));
    }
}
