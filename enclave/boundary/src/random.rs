//! Random bytes from the processor, stretched by ChaCha20.
//!
//! Every call draws a fresh 256-bit key from `rdseed` and `rdrand`, both, XORed: there is no generator state that a
//! snapshot could repeat, and one of the two being weak does not matter. Neither comes from the host.

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher};
use zeroize::Zeroize;

/// Tries before the processor is said to give none: Intel's guide asks for 10 (`rdrand`); `rdseed` may take many more.
const TRIES: u32 = 10_000;

/// The processor gave no random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoEntropy;

/// Fills `out` with random bytes.
///
/// # Errors
/// [`NoEntropy`], with `out` all zero, where neither instruction answers.
pub fn fill_random(out: &mut [u8]) -> Result<(), NoEntropy> {
    out.zeroize();
    let mut key = [0_u8; 32];
    for word in key.chunks_exact_mut(8) {
        let seed = draw(rdseed_once).ok_or(NoEntropy)? ^ draw(rdrand_once).ok_or(NoEntropy)?;
        word.copy_from_slice(&seed.to_le_bytes());
    }
    // The key is used for this call alone, so the nonce may be zero. ChaCha20 is zeroised on drop.
    let mut stream = ChaCha20::new((&key).into(), (&[0_u8; 12]).into());
    key.zeroize();
    stream.try_apply_keystream(out).map_err(|_| NoEntropy)
}

fn draw(once: fn() -> Option<u64>) -> Option<u64> {
    for _ in 0..TRIES {
        // All zeros and all ones are what broken processors answer (AMD erratum after suspend): treated as no answer.
        if let Some(value) = once().filter(|&value| value != 0 && value != u64::MAX) {
            return Some(value);
        }
        core::hint::spin_loop();
    }
    None
}

macro_rules! instruction {
    ($name:ident, $mnemonic:literal) => {
        fn $name() -> Option<u64> {
            let (value, ok): (u64, u8);
            // SAFETY: writes two registers and the flags; the image's target and its loader require the instruction.
            unsafe {
                core::arch::asm!(concat!($mnemonic, " {}"), "setc {}", out(reg) value, out(reg_byte) ok,
                                 options(nomem, nostack));
            }
            (ok == 1).then_some(value)
        }
    };
}
instruction!(rdseed_once, "rdseed");
instruction!(rdrand_once, "rdrand");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_all_and_never_repeats() {
        let (mut a, mut b) = ([0_u8; 200], [0_u8; 200]);
        fill_random(&mut a).unwrap();
        fill_random(&mut b).unwrap();
        assert_ne!(a, b);
        // A run of eight zero bytes has probability below 2^-56.
        assert!(a.windows(8).all(|w| w != [0; 8]));
    }

    #[test]
    fn gives_up_after_a_bounded_number_of_tries() {
        assert_eq!(draw(|| None), None);
        assert_eq!(draw(|| Some(u64::MAX)), None);
        assert_eq!(draw(|| Some(7)), Some(7));
    }
}
