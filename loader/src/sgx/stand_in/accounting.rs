//! What the driver and the processor keep of an enclave while it is made, and what they refuse.
//!
//! Written from Linux's driver and the Intel SDM, apart from the loader and from `myelin.image.sgx`, so that all three have
//! to agree before an enclave starts. Errors are the kernel's: `EINVAL` where the driver looks, `EIO` where the processor
//! would fault, `EPERM` where it does not start the enclave.

use std::collections::BTreeMap;

use nix::errno::Errno;
use sha2::{Digest, Sha256};

use super::signature;

const PAGE: u64 = 4096;
const MODE_64: u64 = 1 << 2;
/// Attributes that the driver lets anybody have: debugging, 64-bit mode, key separation, notification of exits.
const UNPRIVILEGED: u64 = 1 << 1 | MODE_64 | 1 << 7 | 1 << 10;
/// Registers that a processor with AVX-512 has.
const REGISTERS: u64 = 0xe7;
const GENERAL_REGISTERS_BYTES: u64 = 184;
const LARGEST: u64 = 1 << 36;
const KIND: u64 = 0xff << 8;
const THREAD: u64 = 1 << 8;
const REGULAR: u64 = 2 << 8;

/// What a started enclave is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// MRENCLAVE.
    pub mrenclave: [u8; 32],
    /// MRSIGNER.
    pub mrsigner: [u8; 32],
    /// ATTRIBUTES, without the bit that says that it has been started.
    pub attributes: [u64; 2],
    /// ISVPRODID and ISVSVN, as they follow each other.
    pub versions: [u8; 4],
}

/// An enclave that is being made, or has been.
pub struct Enclave {
    /// Where its range begins.
    pub base: u64,
    /// Bytes of its range.
    pub size: u64,
    attributes: [u64; 2],
    digest: Sha256,
    /// Flags by offset.
    pages: BTreeMap<u64, u64>,
    identity: Option<Identity>,
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

fn half(bytes: &[u8], at: usize) -> u32 {
    word(bytes, at) as u32
}

fn must(holds: bool, error: Errno) -> Result<(), Errno> {
    if holds { Ok(()) } else { Err(error) }
}

fn zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

/// Bytes of a save area without the general registers, in the standard form.
fn vector_bytes(xfrm: u64) -> u64 {
    match xfrm {
        0x3 => 576,
        0x7 => 832,
        _ => 2688,
    }
}

impl Enclave {
    /// `ECREATE`.
    pub fn create(secs: &[u8; 4096]) -> Result<Self, Errno> {
        let (size, base, frame_pages) = (word(secs, 0), word(secs, 8), half(secs, 16));
        let attributes = [word(secs, 48), word(secs, 56)];
        must(size.is_power_of_two(), Errno::EINVAL)?;
        let places = [20..48, 64..4096].iter().all(|range| zero(&secs[range.clone()]));
        let [flags, xfrm] = attributes;
        let wide = xfrm & 0xe0;
        must(places && (2 * PAGE..=LARGEST).contains(&size), Errno::EIO)?;
        must(base.is_multiple_of(size) && base < 1 << 47, Errno::EIO)?;
        must(flags & !(UNPRIVILEGED | 1 << 4 | 1 << 5) == 0, Errno::EIO)?;
        must(xfrm & 3 == 3 && xfrm & !REGISTERS == 0, Errno::EIO)?;
        must(wide == 0 || (wide == 0xe0 && xfrm & 4 != 0), Errno::EIO)?;
        must(u64::from(frame_pages) * PAGE >= vector_bytes(xfrm) + GENERAL_REGISTERS_BYTES, Errno::EIO)?;
        let mut record = [0; 64];
        record[..8].copy_from_slice(b"ECREATE\0");
        record[8..12].copy_from_slice(&frame_pages.to_le_bytes());
        record[12..20].copy_from_slice(&size.to_le_bytes());
        let digest = Sha256::new_with_prefix(record);
        Ok(Self { base, size, attributes, digest, pages: BTreeMap::new(), identity: None })
    }

    /// `EADD`, and `EEXTEND` of all of the page where it is measured.
    pub fn add(&mut self, offset: u64, section: &[u8; 64], content: &[u8; 4096], measured: bool) -> Result<(), Errno> {
        let flags = word(section, 0);
        must(self.identity.is_none(), Errno::EINVAL)?;
        must(offset.is_multiple_of(PAGE) && offset < self.size, Errno::EINVAL)?;
        must(matches!(flags & KIND, THREAD | REGULAR) && flags & !(KIND | 7) == 0, Errno::EINVAL)?;
        must(zero(&section[8..]) && flags & 3 != 2, Errno::EINVAL)?;
        if flags & KIND == THREAD {
            must(flags & 7 == 0, Errno::EINVAL)?;
            self.check_thread(content)?;
        }
        must(!self.pages.contains_key(&offset), Errno::EBUSY)?;
        self.pages.insert(offset, flags);
        let mut record = [0; 64];
        record[..4].copy_from_slice(b"EADD");
        record[8..16].copy_from_slice(&offset.to_le_bytes());
        record[16..24].copy_from_slice(&flags.to_le_bytes());
        self.digest.update(record);
        if measured {
            for (chunk, offset) in content.chunks(256).zip((offset..).step_by(256)) {
                let mut record = [0; 64];
                record[..7].copy_from_slice(b"EEXTEND");
                record[8..16].copy_from_slice(&offset.to_le_bytes());
                self.digest.update(record);
                self.digest.update(chunk);
            }
        }
        Ok(())
    }

    /// What `EADD` wants of a TCS.
    fn check_thread(&self, content: &[u8; 4096]) -> Result<(), Errno> {
        let (flags, save_area, entry) = (word(content, 8), word(content, 16), word(content, 32));
        let bases = [word(content, 48), word(content, 56)];
        let limits = [half(content, 64), half(content, 68)];
        must(flags & !1 == 0 && word(content, 0) == 0 && word(content, 40) == 0 && zero(&content[72..]), Errno::EIO)?;
        must(save_area.is_multiple_of(PAGE) && save_area < self.size && entry < self.size, Errno::EIO)?;
        must(half(content, 24) == 0 && half(content, 28) > 0, Errno::EIO)?;
        must(bases.iter().all(|base| base.is_multiple_of(PAGE)), Errno::EIO)?;
        let whole = limits.iter().all(|limit| limit & 0xfff == 0xfff);
        must(self.attributes[0] & MODE_64 != 0 || whole, Errno::EIO)
    }

    /// `EINIT`.
    pub fn start(&mut self, structure: &[u8; 1808]) -> Result<&Identity, Errno> {
        must(self.identity.is_none(), Errno::EINVAL)?;
        must(matches!(half(structure, 16), 0 | 0x8086), Errno::EINVAL)?;
        must(self.attributes[0] & !UNPRIVILEGED == 0, Errno::EACCES)?;
        let mrsigner = signature::check(structure).ok_or(Errno::EPERM)?;
        let mrenclave: [u8; 32] = self.digest.clone().finalize().into();
        must(structure[960..992] == mrenclave, Errno::EPERM)?;
        must(half(structure, 900) & half(structure, 904) == 0, Errno::EPERM)?;
        for (place, attribute) in self.attributes.iter().enumerate() {
            let (signed, mask) = (word(structure, 928 + 8 * place), word(structure, 944 + 8 * place));
            must((signed ^ attribute) & mask == 0, Errno::EPERM)?;
        }
        let mut versions = [0; 4];
        versions.copy_from_slice(&structure[1024..1028]);
        Ok(self.identity.insert(Identity { mrenclave, mrsigner, attributes: self.attributes, versions }))
    }

    /// What the driver says of a mapping: no more rights than every page has, and nothing outside.
    pub fn may_map(&self, address: u64, bytes: u64, rights: u64) -> Result<(), Errno> {
        must(address >= self.base && address + bytes <= self.base + self.size, Errno::EACCES)?;
        let offset = address - self.base;
        for (_, &flags) in self.pages.range(offset..offset + bytes) {
            let most = if flags & KIND == THREAD { 3 } else { flags & 7 };
            must(rights & !most == 0, Errno::EACCES)?;
        }
        Ok(())
    }

    /// Offsets of the pages of thread control.
    pub fn threads(&self) -> impl Iterator<Item = u64> + '_ {
        self.pages.iter().filter(|(_, flags)| **flags & KIND == THREAD).map(|(&offset, _)| offset)
    }
}
