//! What is secret, and what of it may be seen: said to the tool that checks that nothing else shows (docs/side-channels.md).
//!
//! Valgrind's memcheck follows every bit that it holds for undefined through all computation, and says where a branch or an
//! address depends on one. A check marks secrets as undefined ([`secret`]) and runs the enclave's code. Where a value made
//! of secrets may be seen, the code says so by [`public`], with the reason: [`Public`] lists them all, and there are no
//! others. Without the feature `memcheck`, which no image has, both are nothing at all.

/// Why a branch or an address may depend on a value that is made of secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Public {
    /// Whether so many records' words lie next to the sampler's cut that it has to look again. For any plan it has not,
    /// but with a probability below 2^-100.
    CrowdedDraw,
    /// Whether a record fits the schema. `seal` refuses one that does not, and the enclave's refusal names it.
    RecordFits,
    /// Whether all clipped sums are finite. They are, unless a kernel has a defect; then the run ends.
    FiniteSums,
    /// Who was drawn, where the plan does not ask for an oblivious gather.
    Drawn,
    /// Whether a key opens what was sealed: the enclave answers so.
    Opens,
    /// What is sent as it is: public keys, what is sealed.
    Sent,
    /// In which order records take turns. No bound counts on its being secret.
    Turns,
}

/// The value itself, which may be seen from here on.
#[cfg_attr(not(feature = "memcheck"), inline(always))]
#[must_use]
pub fn public<T: Copy>(value: T, _why: Public) -> T {
    #[cfg(feature = "memcheck")]
    let value = {
        let mut value = value;
        memcheck::request(
            memcheck::DEFINED,
            (&raw mut value).expose_provenance(),
            size_of::<T>(),
        );
        value
    };
    value
}

/// As [`public`], for many values at their place.
#[cfg_attr(not(feature = "memcheck"), inline(always))]
#[cfg_attr(
    not(feature = "memcheck"),
    allow(unused_variables, clippy::needless_pass_by_ref_mut)
)]
pub fn public_all<T: Copy>(values: &mut [T], _why: Public) {
    #[cfg(feature = "memcheck")]
    memcheck::request(
        memcheck::DEFINED,
        values.as_mut_ptr().expose_provenance(),
        size_of_val(values),
    );
}

/// Marks values as secret. They keep what they are.
#[cfg(feature = "memcheck")]
pub fn secret<T: Copy>(values: &mut [T]) {
    memcheck::request(
        memcheck::UNDEFINED,
        values.as_mut_ptr().expose_provenance(),
        size_of_val(values),
    );
}

#[cfg(feature = "memcheck")]
mod memcheck {
    /// `VG_USERREQ__MAKE_MEM_UNDEFINED` and the next, of valgrind's `memcheck.h`.
    pub(super) const UNDEFINED: usize = 0x4d43_0001;
    pub(super) const DEFINED: usize = 0x4d43_0002;

    /// Asks valgrind; outside of it, nothing.
    pub(super) fn request(code: usize, start: usize, bytes: usize) {
        let words = [code, start, bytes, 0, 0, 0];
        // SAFETY: the rotations add up to 128 bits and the exchange is of a register with itself, so nothing changes but
        // flags; valgrind, which knows these instructions, changes its own notes about the memory and `rdx`.
        unsafe {
            core::arch::asm!(
                "rol rdi, 3",
                "rol rdi, 13",
                "rol rdi, 61",
                "rol rdi, 51",
                "xchg rbx, rbx",
                in("rax") words.as_ptr(),
                in("rdi") 0_usize,
                inout("rdx") 0_usize => _,
                options(nostack)
            );
        }
    }
}
