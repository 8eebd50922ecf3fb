//! Copying through the region that host and enclave both see.
//!
//! The host may change it at any moment. So nothing in it is ever a Rust reference, the length is read once, and a request
//! is copied whole before anything looks at it.

use alloc::vec::Vec;
use core::arch::asm;
use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};

use myelin_abi::{ADDRESS_LIMIT, MESSAGE_BYTES, PAGE_BYTES, SHARED_BYTES, Shared};

/// A request that is longer than a request may be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Oversized;

/// The address of the region; zero until the first entry fixes it.
pub(crate) struct Region(AtomicUsize);

impl Region {
    pub(crate) const fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// Fixes the region's address at the first call; answers whether `pointer` is that address.
    ///
    /// It must be page-aligned, below the address limit and wholly outside `image`.
    pub(crate) fn fix(&self, pointer: *mut Shared, image: &Range<usize>) -> bool {
        let start = pointer.addr();
        let Some(end) = start.checked_add(SHARED_BYTES) else {
            return false;
        };
        let well_placed = start != 0
            && start.is_multiple_of(PAGE_BYTES as usize)
            && end as u64 <= ADDRESS_LIMIT
            && (end <= image.start || image.end <= start);
        if !well_placed {
            return false;
        }
        match self
            .0
            .compare_exchange(0, start, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => true,
            Err(fixed) => fixed == start,
        }
    }

    fn pointer(&self) -> *mut Shared {
        core::ptr::with_exposed_provenance_mut(self.0.load(Ordering::Acquire))
    }

    /// Copies the request in.
    pub(crate) fn request(&self) -> Result<Vec<u8>, Oversized> {
        let shared = self.pointer();
        // SAFETY: the region was fixed: it is aligned, in the address space and outside the image. That the loader mapped it
        // is the loader's part; if not, the process faults and nothing more. The read is volatile and happens once.
        let length = unsafe { (&raw const (*shared).request_len).read_volatile() };
        let length = usize::try_from(length).map_err(|_| Oversized)?;
        if length > MESSAGE_BYTES {
            return Err(Oversized);
        }
        let mut request = Vec::with_capacity(length);
        // SAFETY: `length` bytes fit the region's request and the new vector; the copy is opaque to the compiler, so bytes
        // that the host changes meanwhile are merely some bytes. After it, `length` bytes of the vector are initialised.
        unsafe {
            copy(
                request.as_mut_ptr(),
                (&raw const (*shared).request).cast(),
                length,
            );
            request.set_len(length);
        }
        Ok(request)
    }

    /// Copies a reply out; one that does not fit is a defect of the enclave and answers `false`.
    pub(crate) fn reply(&self, reply: &[u8]) -> bool {
        let shared = self.pointer();
        if shared.is_null() || reply.len() > MESSAGE_BYTES {
            return false;
        }
        // SAFETY: as in `request`; the destination is outside the image, so no Rust object is written.
        unsafe {
            copy(
                (&raw mut (*shared).reply).cast(),
                reply.as_ptr(),
                reply.len(),
            );
            (&raw mut (*shared).reply_len).write_volatile(reply.len() as u64);
        }
        true
    }
}

/// Copies bytes in a way that the compiler neither sees through nor repeats.
///
/// # Safety
/// `count` bytes are readable at `from` and writable at `to`.
unsafe fn copy(to: *mut u8, from: *const u8, count: usize) {
    // SAFETY: the caller vouches for both regions; the direction flag is clear by the calling convention.
    unsafe {
        asm!("rep movsb", inout("rcx") count => _, inout("rdi") to => _, inout("rsi") from => _,
             options(nostack, preserves_flags));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::alloc::{Layout, alloc_zeroed, dealloc};

    const IMAGE: Range<usize> = 0x1000_0000..0x2000_0000;

    fn at(address: usize) -> *mut Shared {
        core::ptr::without_provenance_mut(address)
    }

    #[test]
    fn refuses_badly_placed_regions() {
        let limit = ADDRESS_LIMIT as usize;
        for address in [
            0,
            1,
            0x1000_0000,
            0x1000_0000 - SHARED_BYTES + 4096,
            0x2000_0000 - 4096,
            0x3000_0001,
            limit - SHARED_BYTES + 4096,
            limit,
            usize::MAX - 4095,
        ] {
            assert!(!Region::new().fix(at(address), &IMAGE), "{address:#x}");
        }
        for address in [
            0x1000_0000 - SHARED_BYTES,
            0x2000_0000,
            limit - SHARED_BYTES,
        ] {
            assert!(Region::new().fix(at(address), &IMAGE), "{address:#x}");
        }
    }

    #[test]
    fn the_first_region_is_the_only_one() {
        let region = Region::new();
        assert!(region.fix(at(0x4000_0000), &IMAGE));
        assert!(!region.fix(at(0x5000_0000), &IMAGE));
        assert!(region.fix(at(0x4000_0000), &IMAGE));
    }

    #[test]
    fn copies_in_and_out() {
        let layout = Layout::new::<Shared>();
        // SAFETY: the layout is not empty; the region is used through raw pointers and freed once.
        unsafe {
            let shared = alloc_zeroed(layout).cast::<Shared>();
            let region = Region::new();
            let _ = shared.expose_provenance();
            assert!(region.fix(shared, &IMAGE));
            (*shared).request_len = 3;
            (&mut (*shared).request)[..3].copy_from_slice(b"abc");
            assert_eq!(region.request().unwrap(), b"abc");
            (*shared).request_len = MESSAGE_BYTES as u64 + 1;
            assert_eq!(region.request(), Err(Oversized));
            (*shared).request_len = u64::MAX;
            assert_eq!(region.request(), Err(Oversized));
            (*shared).request_len = MESSAGE_BYTES as u64;
            assert_eq!(region.request().unwrap().len(), MESSAGE_BYTES);
            assert!(region.reply(b"defg"));
            assert_eq!((*shared).reply_len, 4);
            assert_eq!(&(&(*shared).reply)[..5], b"defg\0");
            assert!(!region.reply(&std::vec![0; MESSAGE_BYTES + 1]));
            dealloc(shared.cast(), layout);
        }
    }
}
