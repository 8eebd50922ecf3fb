//! The image's heap: a first-fit list in `.bss`, zeroed as it is freed so that nothing secret lingers in it.

#[cfg(myelin_image)]
mod image {
    use core::alloc::{GlobalAlloc, Layout};
    use core::cell::UnsafeCell;
    use core::ptr::{NonNull, null_mut};
    use core::sync::atomic::{AtomicBool, Ordering};

    use linked_list_allocator::Heap;
    use zeroize::Zeroize;

    unsafe extern "C" {
        /// First byte of the heap, and its size: defined by the image's generated object.
        static mut myelin_heap: u8;
        static myelin_heap_bytes: u64;
    }

    struct Locked {
        busy: AtomicBool,
        heap: UnsafeCell<Option<Heap>>,
    }

    // SAFETY: `heap` is only touched between winning `busy` and giving it back.
    unsafe impl Sync for Locked {}

    #[global_allocator]
    static HEAP: Locked = Locked {
        busy: AtomicBool::new(false),
        heap: UnsafeCell::new(None),
    };

    impl Locked {
        fn with<R>(&self, f: impl FnOnce(&mut Heap) -> R) -> R {
            while self
                .busy
                .compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed)
                .is_err()
            {
                core::hint::spin_loop();
            }
            // SAFETY: `busy` was won, so this is the only reference to the cell until it is given back below.
            let slot = unsafe { &mut *self.heap.get() };
            let heap = slot.get_or_insert_with(|| {
                // SAFETY: the generated object defines a region of that many bytes for the heap and nothing else, and this
                // runs once.
                unsafe { Heap::new(&raw mut myelin_heap, myelin_heap_bytes as usize) }
            });
            let result = f(heap);
            self.busy.store(false, Ordering::Release);
            result
        }
    }

    // SAFETY: blocks come from one `Heap`, which never hands out a byte twice; the lock makes that hold for threads.
    unsafe impl GlobalAlloc for Locked {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            self.with(|heap| heap.allocate_first_fit(layout))
                .map_or(null_mut(), NonNull::as_ptr)
        }

        unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
            let Some(pointer) = NonNull::new(pointer) else {
                return;
            };
            // SAFETY: the caller gives a live block of this layout, so its bytes are valid and nobody else's.
            unsafe { core::slice::from_raw_parts_mut(pointer.as_ptr(), layout.size()) }.zeroize();
            // SAFETY: as above; the block came from this heap with this layout.
            self.with(|heap| unsafe { heap.deallocate(pointer, layout) });
        }
    }
}

/// Bytes before a workspace that keep its size; also its alignment.
const WORKSPACE_ALIGN: usize = 64;

/// A block for a kernel's temporary values, 64-byte aligned, or null where there is no room.
pub(crate) fn allocate_workspace(bytes: usize) -> *mut u8 {
    let Some(size) = bytes.checked_add(WORKSPACE_ALIGN) else {
        return core::ptr::null_mut();
    };
    let Ok(layout) = core::alloc::Layout::from_size_align(size, WORKSPACE_ALIGN) else {
        return core::ptr::null_mut();
    };
    // SAFETY: the layout's size is at least 64.
    let base = unsafe { alloc::alloc::alloc(layout) };
    if base.is_null() {
        return base;
    }
    // SAFETY: the block has 64 bytes before the workspace, aligned for a usize; the workspace begins inside the block.
    unsafe {
        base.cast::<usize>().write(size);
        base.add(WORKSPACE_ALIGN)
    }
}

/// Frees a block of [`allocate_workspace`].
///
/// # Safety
/// `workspace` is null, or came from [`allocate_workspace`] and was not freed since.
pub(crate) unsafe fn free_workspace(workspace: *mut u8) {
    if workspace.is_null() {
        return;
    }
    // SAFETY: per the contract the block starts 64 bytes earlier and holds its size there.
    unsafe {
        let base = workspace.sub(WORKSPACE_ALIGN);
        let size = base.cast::<usize>().read();
        let layout = core::alloc::Layout::from_size_align_unchecked(size, WORKSPACE_ALIGN);
        alloc::alloc::dealloc(base, layout);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workspace_is_aligned_and_usable() {
        let blocks: std::vec::Vec<_> = (1..200).map(|n| (n, allocate_workspace(n))).collect();
        for &(n, block) in &blocks {
            assert!(!block.is_null() && block.addr().is_multiple_of(64));
            // SAFETY: the block has n bytes.
            unsafe { block.write_bytes(0xAB, n) };
        }
        for (_, block) in blocks {
            // SAFETY: allocated above, freed once.
            unsafe { free_workspace(block) };
        }
    }

    #[test]
    fn no_room_is_null() {
        assert!(allocate_workspace(usize::MAX).is_null());
        assert!(allocate_workspace(usize::MAX / 2 + 1).is_null());
    }
}
