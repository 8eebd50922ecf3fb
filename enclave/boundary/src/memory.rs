//! `memcpy` and its kin, which compiled code calls by name and no C library brings here.
//!
//! String instructions rather than loops: a compiler turns a loop in `memcpy` back into a call of `memcpy`.

use core::arch::asm;

/// Copies `count` bytes between regions that do not overlap.
///
/// # Safety
/// As C's `memcpy`.
#[cfg_attr(myelin_image, unsafe(no_mangle))]
pub unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    // SAFETY: the caller vouches for both regions; the direction flag is clear by the calling convention.
    unsafe {
        asm!("rep movsb", inout("rcx") count => _, inout("rdi") to => _, inout("rsi") from => _,
             options(nostack, preserves_flags));
    }
    to
}

/// Copies `count` bytes between regions that may overlap.
///
/// # Safety
/// As C's `memmove`.
#[cfg_attr(myelin_image, unsafe(no_mangle))]
pub unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    if to.addr().wrapping_sub(from.addr()) >= count {
        // SAFETY: no byte of the source is written before it is read when copying upwards.
        return unsafe { memcpy(to, from, count) };
    }
    // SAFETY: the caller vouches for both regions; copying downwards reads each byte before it is written, and the direction
    // flag is clear again afterwards.
    unsafe {
        asm!("std", "rep movsb", "cld",
             inout("rcx") count => _,
             inout("rdi") to.wrapping_add(count).wrapping_sub(1) => _,
             inout("rsi") from.wrapping_add(count).wrapping_sub(1) => _,
             options(nostack));
    }
    to
}

/// Sets `count` bytes.
///
/// # Safety
/// As C's `memset`.
#[cfg_attr(myelin_image, unsafe(no_mangle))]
pub unsafe extern "C" fn memset(to: *mut u8, value: i32, count: usize) -> *mut u8 {
    // SAFETY: the caller vouches for the region; the direction flag is clear by the calling convention.
    unsafe {
        asm!("rep stosb", inout("rcx") count => _, inout("rdi") to => _, in("al") value as u8,
             options(nostack, preserves_flags));
    }
    to
}

/// Compares bytes in order; not constant-time, as in C, so never used on secrets.
///
/// # Safety
/// As C's `memcmp`.
#[cfg_attr(myelin_image, unsafe(no_mangle))]
pub unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
    for index in 0..count {
        // SAFETY: the caller vouches for `count` bytes at both.
        let (x, y) = unsafe { (*a.add(index), *b.add(index)) };
        if x != y {
            return i32::from(x) - i32::from(y);
        }
    }
    0
}

/// Whether bytes differ; compilers call it for equality.
///
/// # Safety
/// As `memcmp`.
#[cfg_attr(myelin_image, unsafe(no_mangle))]
pub unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
    // SAFETY: same contract.
    unsafe { memcmp(a, b, count) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn moves_overlapping_bytes_both_ways() {
        for (from, to) in [(0_usize, 3_usize), (3, 0), (5, 5), (0, 40), (40, 0)] {
            for count in 0..40 {
                let mut bytes: Vec<u8> = (0..100).collect();
                let mut expected = bytes.clone();
                expected.copy_within(from..from + count, to);
                let base = bytes.as_mut_ptr();
                // SAFETY: both regions lie in the vector.
                unsafe { memmove(base.add(to), base.add(from), count) };
                assert_eq!(bytes, expected, "{from} {to} {count}");
            }
        }
    }

    #[test]
    fn copies_sets_and_compares() {
        let (mut a, b) = ([0_u8; 9], *b"abcdefghi");
        // SAFETY: all lengths are within the arrays.
        unsafe {
            memcpy(a.as_mut_ptr(), b.as_ptr(), 9);
            assert_eq!((a, memcmp(a.as_ptr(), b.as_ptr(), 9)), (b, 0));
            memset(a.as_mut_ptr().add(1), 0x017a, 3);
            assert_eq!(&a, b"azzzefghi");
            assert!(memcmp(a.as_ptr(), b.as_ptr(), 9) > 0);
            assert!(memcmp(b.as_ptr(), a.as_ptr(), 9) < 0);
            assert_eq!(bcmp(a.as_ptr(), b.as_ptr(), 1), 0);
            assert_ne!(bcmp(a.as_ptr(), b.as_ptr(), 2), 0);
        }
    }
}
