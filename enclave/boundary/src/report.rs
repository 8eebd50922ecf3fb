//! What the image wants evidence for, where only the image can write it.
//!
//! Something between the image and its hardware (a trampoline that makes an SGX report) takes it from here by its symbol,
//! and so never from memory that the host writes.

use core::sync::atomic::{AtomicU64, Ordering};

const WORDS: usize = 8;

/// Report data in the order of its bytes, as a hardware report takes it: 64 bytes, aligned for it.
#[repr(C, align(128))]
pub struct ReportData([AtomicU64; WORDS]);

/// All zero where no evidence is wanted. The linker script puts it where the image's writable data begins, so that it is
/// found in a file without symbols.
#[unsafe(no_mangle)]
#[cfg_attr(myelin_image, unsafe(link_section = ".data.myelin_report_data"))]
#[allow(non_upper_case_globals, reason = "a symbol of the image")]
pub static myelin_report_data: ReportData = ReportData([const { AtomicU64::new(0) }; WORDS]);

impl ReportData {
    /// Evidence for `data` is wanted from now on, and for nothing else; for nothing at all with zeros.
    pub fn want(&self, data: &[u8; 8 * WORDS]) {
        for (word, bytes) in self.0.iter().zip(data.as_chunks().0) {
            word.store(u64::from_le_bytes(*bytes), Ordering::Release);
        }
    }

    /// What lies there.
    #[must_use]
    pub fn wanted(&self) -> [u8; 8 * WORDS] {
        let mut data = [0; 8 * WORDS];
        for (word, bytes) in self.0.iter().zip(data.as_chunks_mut().0) {
            *bytes = word.load(Ordering::Acquire).to_le_bytes();
        }
        data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lies_there_byte_for_byte() {
        let data = core::array::from_fn(|index| index as u8);
        myelin_report_data.want(&data);
        assert_eq!(myelin_report_data.wanted(), data);
        assert_eq!(size_of::<ReportData>() % 128, 0);
        myelin_report_data.want(&[0; 64]);
        assert_eq!(myelin_report_data.wanted(), [0; 64]);
    }
}
