//! The kernel's function for going into an enclave, found in the library that it maps into every process.

use crate::refusal::{Reason, Refusal};

const NAME: &[u8] = b"__vdso_sgx_enter_enclave\0";
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const DT_NULL: u64 = 0;
const DT_HASH: u64 = 4;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_GNU_HASH: u64 = 0x6fff_fef5;
/// More symbols than any such library has.
const SYMBOL_LIMIT: u64 = 1024;

/// A library as it is mapped.
struct Library {
    base: u64,
}

impl Library {
    /// Reads a value at an address inside the library.
    fn read<T: Copy>(&self, address: u64) -> T {
        let pointer = core::ptr::with_exposed_provenance::<T>(address as usize);
        // SAFETY: the kernel has mapped its library for the life of the process, and all that is read is where the
        // library's own headers say; it is trusted as the kernel is, which could map anything anywhere.
        unsafe { pointer.read_unaligned() }
    }

    /// Whether the text at an address is `name`, which ends with a zero byte.
    fn named(&self, address: u64, name: &[u8]) -> bool {
        name.iter().zip(address..).all(|(&byte, address)| self.read::<u8>(address) == byte)
    }

    /// Rows of the program header table: type, offset in the file, address.
    fn headers(&self) -> impl Iterator<Item = (u32, u64, u64)> + '_ {
        let (table, count) = (self.base + self.read::<u64>(self.base + 32), self.read::<u16>(self.base + 56));
        let rows = (0..u64::from(count)).map(move |row| table + row * 56);
        rows.map(|row| (self.read(row), self.read(row + 8), self.read(row + 16)))
    }

    /// The number of symbols, by whichever hash table there is.
    fn symbols(&self, hash: u64, gnu_hash: u64) -> u64 {
        if hash != 0 {
            return u64::from(self.read::<u32>(hash + 4)).min(SYMBOL_LIMIT);
        }
        // The GNU table has no count: the last chain's end is found instead.
        let [buckets, first, bloom] = [0, 4, 8].map(|at| u64::from(self.read::<u32>(gnu_hash + at)));
        let table = gnu_hash + 16 + bloom * 8;
        let last = (0..buckets).map(|bucket| u64::from(self.read::<u32>(table + bucket * 4))).max();
        let Some(mut last) = last.filter(|&last| last >= first) else { return 0 };
        while last < SYMBOL_LIMIT && self.read::<u32>(table + buckets * 4 + (last - first) * 4) & 1 == 0 {
            last += 1;
        }
        (last + 1).min(SYMBOL_LIMIT)
    }

    /// Address of the function `name`.
    fn find(&self, name: &[u8]) -> Option<u64> {
        let load = self.headers().find(|&(kind, ..)| kind == PT_LOAD)?;
        let shift = self.base.wrapping_add(load.1).wrapping_sub(load.2);
        let mut row = self.headers().find(|&(kind, ..)| kind == PT_DYNAMIC)?.2.wrapping_add(shift);
        let [mut hash, mut gnu_hash, mut strings, mut table] = [0; 4];
        loop {
            let (kind, value) = (self.read::<u64>(row), self.read::<u64>(row + 8));
            let place = match kind {
                DT_NULL => break,
                DT_HASH => &mut hash,
                DT_GNU_HASH => &mut gnu_hash,
                DT_STRTAB => &mut strings,
                DT_SYMTAB => &mut table,
                _ => &mut 0,
            };
            *place = value.wrapping_add(shift);
            row += 16;
        }
        if strings == 0 || table == 0 || (hash == 0 && gnu_hash == 0) {
            return None;
        }
        let symbols = (0..self.symbols(hash, gnu_hash)).map(|symbol| table + symbol * 24);
        let mut named = symbols.filter(|&row| self.named(strings + u64::from(self.read::<u32>(row)), name));
        named.next().map(|row| self.read::<u64>(row + 8).wrapping_add(shift))
    }
}

/// Address of `__vdso_sgx_enter_enclave`.
///
/// # Errors
/// [`Reason::BackendMissing`] where the kernel has none: it is older than 5.11 or was built without SGX.
pub fn enter_function() -> Result<usize, Refusal> {
    // SAFETY: getauxval takes an integer and answers one.
    let base = unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) };
    let found = if base == 0 { None } else { Library { base }.find(NAME) };
    found.and_then(|address| usize::try_from(address).ok()).ok_or_else(|| {
        Refusal::new(
            Reason::BackendMissing,
            "the kernel has no function for going into an enclave (__vdso_sgx_enter_enclave): it needs Linux 5.11 or \
             newer with CONFIG_X86_SGX",
        )
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used)]
    use super::*;

    /// Every kernel's library has a clock, so the walk is seen to find what is there and not what is not.
    #[test]
    fn a_function_that_is_there_is_found_and_no_other() {
        // SAFETY: as above.
        let base = unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) };
        assert_ne!(base, 0);
        let library = Library { base };
        let address = library.find(b"__vdso_clock_gettime\0").expect("every kernel has it");
        assert!((base..base + (1 << 16)).contains(&address));
        let clock_gettime = core::ptr::with_exposed_provenance::<()>(address as usize);
        // SAFETY: the kernel's function has the type of the system call of its name.
        let clock_gettime: extern "C" fn(i32, *mut libc::timespec) -> i32 =
            unsafe { core::mem::transmute(clock_gettime) };
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        assert_eq!(clock_gettime(libc::CLOCK_REALTIME, &raw mut time), 0);
        assert!(time.tv_sec > 1_700_000_000);
        assert_eq!(library.find(b"__vdso_clock_gettimes\0"), None);
        assert_eq!(library.find(b"__vdso_clock_gettim\0"), None);
    }

    #[test]
    fn a_kernel_without_it_is_said_to_be_one() {
        // SAFETY: as above.
        let base = unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) };
        match (Library { base }.find(NAME), enter_function()) {
            (Some(address), Ok(found)) => assert_eq!(address, found as u64),
            (None, Err(refusal)) => assert_eq!(refusal.reason, Reason::BackendMissing),
            other => unreachable!("{other:?}"),
        }
    }
}
