//! The kernels' memory: one region, handed out as checked, typed slices.
//!
//! It has one shared part and, behind it, lanes of equal size. A [`Memory`] is one lane with the shared part: as many as
//! there are lanes may be used at once, because each writes its own lane only.

use core::marker::PhantomData;
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

/// How an arena is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lanes {
    /// Bytes of the shared part, a multiple of 64.
    pub shared_bytes: usize,
    /// Bytes of one lane, a multiple of 64.
    pub lane_bytes: usize,
    /// How many lanes.
    pub count: usize,
}

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

    /// An arena on the heap, for tests and benchmarks.
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

    /// `count` elements from byte `offset`, in whatever part, or `None` where they are not all inside or not aligned.
    #[must_use]
    pub fn view<T: Element>(&self, offset: usize, count: usize) -> Option<&[T]> {
        let pointer = part::<T>(self.base, self.bytes, offset, count)?;
        // SAFETY: inside, aligned and initialised; any bits are a value of `T`; shared as `self` is.
        Some(unsafe { core::slice::from_raw_parts(pointer, count) })
    }

    /// Zeroes all of it, in a way that is not optimised away.
    pub fn wipe(&mut self) {
        // SAFETY: the arena's own bytes, borrowed mutably.
        unsafe { core::slice::from_raw_parts_mut(self.base.as_ptr(), self.bytes) }.zeroize();
    }

    /// The shared part, to write, and lane 0; `None` where the lanes are not inside the arena or not aligned.
    #[must_use]
    pub fn whole(&mut self, lanes: Lanes) -> Option<Memory<'_>> {
        // SAFETY: the arena is borrowed mutably for as long as the one memory lives.
        lanes
            .fit(self.bytes)
            .then(|| unsafe { self.memory(lanes, 0, true) })
    }

    /// The shared part, to write, and all lanes, to read; `None` where the lanes are not inside the arena or not aligned.
    #[must_use]
    pub fn split(&mut self, lanes: Lanes) -> Option<(Memory<'_>, LaneViews<'_>)> {
        if !lanes.fit(self.bytes) {
            return None;
        }
        let views = LaneViews {
            base: self.base,
            lanes,
            arena: PhantomData,
        };
        let nothing = Lanes {
            lane_bytes: 0,
            ..lanes
        };
        // SAFETY: the arena is borrowed mutably for as long as both live; they have no byte in common, and the memory's lane
        // has none at all.
        Some((unsafe { self.memory(nothing, 0, true) }, views))
    }

    /// Runs `task(lane, state, memory)` once for every lane, on this thread and those lent meanwhile; returns when all are
    /// done. Each lane gets the element of `states` of its index.
    ///
    /// `false`, and nothing was run, where the lanes are not inside the arena, not aligned, or not as many as the states.
    pub fn run_lanes<T: Send>(
        &mut self,
        lanes: Lanes,
        states: &mut [T],
        task: &(dyn Fn(usize, &mut T, &mut Memory<'_>) + Sync),
    ) -> bool {
        if !lanes.fit(self.bytes) || states.len() != lanes.count {
            return false;
        }
        let arena = &*self;
        crate::pool().run_chunks(states, 1, &|index, state| {
            if let [state] = state {
                // SAFETY: the arena is borrowed mutably until every task is done, each index runs once, the lanes of
                // different indices are disjoint, and none of these memories writes the shared part.
                task(index, state, &mut unsafe {
                    arena.memory(lanes, index, false)
                });
            }
        });
        true
    }

    /// # Safety
    /// `lanes` fit, `index` is below their count; while the memory lives nothing else uses its lane, and nothing else writes
    /// the shared part, or uses it at all if it is `shared_writable`.
    unsafe fn memory(&self, lanes: Lanes, index: usize, shared_writable: bool) -> Memory<'_> {
        Memory {
            shared: self.base,
            shared_bytes: lanes.shared_bytes,
            // SAFETY: inside the arena, because the lanes fit.
            lane: unsafe { self.base.add(lanes.shared_bytes + index * lanes.lane_bytes) },
            lane_bytes: lanes.lane_bytes,
            shared_writable,
            arena: PhantomData,
        }
    }
}

impl Lanes {
    fn fit(&self, bytes: usize) -> bool {
        let end = self
            .lane_bytes
            .checked_mul(self.count)
            .and_then(|lanes| lanes.checked_add(self.shared_bytes));
        self.count > 0
            && self.shared_bytes.is_multiple_of(64)
            && self.lane_bytes.is_multiple_of(64)
            && end.is_some_and(|end| end <= bytes)
    }
}

/// One lane of an arena, and the shared part, which all lanes may read and only [`Arena::whole`] may write.
///
/// Offsets below the shared part's size are in it, those from there on in the lane.
pub struct Memory<'a> {
    shared: NonNull<u8>,
    shared_bytes: usize,
    lane: NonNull<u8>,
    lane_bytes: usize,
    shared_writable: bool,
    arena: PhantomData<&'a mut u8>,
}

impl Memory<'_> {
    /// `count` elements from byte `offset`, or `None` where they are not all inside one part or not aligned.
    #[must_use]
    pub fn view<T: Element>(&self, offset: usize, count: usize) -> Option<&[T]> {
        let pointer = self.checked::<T>(offset, count)?;
        // SAFETY: inside, aligned and initialised (`checked`); any bits are a value of `T`; the lane is shared as `self` is,
        // and the shared part is not written while `self` is borrowed.
        Some(unsafe { core::slice::from_raw_parts(pointer, count) })
    }

    /// As [`Memory::view`], to write; `None` also in the shared part, unless it may be written.
    #[must_use]
    pub fn view_mut<T: Element>(&mut self, offset: usize, count: usize) -> Option<&mut [T]> {
        if !self.may_write(offset) {
            return None;
        }
        let pointer = self.checked::<T>(offset, count)?;
        // SAFETY: as in `view`; nobody else uses what may be written, and it is borrowed mutably as `self` is.
        Some(unsafe { core::slice::from_raw_parts_mut(pointer, count) })
    }

    /// Address of a region for a kernel, or `None` where it is not inside one part, not 64-byte aligned, or would be written
    /// and may not be.
    pub(crate) fn region(&mut self, offset: usize, bytes: usize, written: bool) -> Option<*mut u8> {
        if written && !self.may_write(offset) {
            return None;
        }
        let pointer = self.checked::<u8>(offset, bytes)?;
        pointer.addr().is_multiple_of(64).then_some(pointer)
    }

    fn may_write(&self, offset: usize) -> bool {
        self.shared_writable || offset >= self.shared_bytes
    }

    fn checked<T: Element>(&self, offset: usize, count: usize) -> Option<*mut T> {
        match offset.checked_sub(self.shared_bytes) {
            Some(in_lane) => part(self.lane, self.lane_bytes, in_lane, count),
            None => part(self.shared, self.shared_bytes, offset, count),
        }
    }
}

/// All lanes of an arena, to read.
#[derive(Clone, Copy)]
pub struct LaneViews<'a> {
    base: NonNull<u8>,
    lanes: Lanes,
    arena: PhantomData<&'a u8>,
}

// SAFETY: gives shared slices of plain numbers that nobody writes while it lives.
unsafe impl Sync for LaneViews<'_> {}

impl<'a> LaneViews<'a> {
    /// `count` elements of lane `lane` from byte `offset`, as [`Memory::view`] counts it; `None` where they are not all in
    /// the lane or not aligned.
    #[must_use]
    pub fn view<T: Element>(&self, lane: usize, offset: usize, count: usize) -> Option<&'a [T]> {
        if lane >= self.lanes.count {
            return None;
        }
        let in_lane = offset.checked_sub(self.lanes.shared_bytes)?;
        // SAFETY: inside the arena, because the lanes fit.
        let base = unsafe {
            self.base
                .add(self.lanes.shared_bytes + lane * self.lanes.lane_bytes)
        };
        let pointer = part::<T>(base, self.lanes.lane_bytes, in_lane, count)?;
        // SAFETY: inside, aligned and initialised; any bits are a value of `T`; nobody writes lanes while this lives.
        Some(unsafe { core::slice::from_raw_parts(pointer, count) })
    }
}

/// `count` elements from byte `offset` of a part of the arena, or `None` where they are not all inside or not aligned.
fn part<T: Element>(
    base: NonNull<u8>,
    limit: usize,
    offset: usize,
    count: usize,
) -> Option<*mut T> {
    let bytes = count.checked_mul(size_of::<T>())?;
    if offset.checked_add(bytes)? > limit {
        return None;
    }
    // SAFETY: `offset` is at most the part's size.
    let pointer = unsafe { base.as_ptr().add(offset) }.cast::<T>();
    pointer.is_aligned().then_some(pointer)
}

#[cfg(test)]
#[path = "arena_tests.rs"]
mod tests;
