//! AES-256 in counter mode (FIPS 197, SP 800-38A) on the processor's own instructions.
//!
//! The instructions take the same time for every key and block, and touch no table. Round keys are wiped on drop.

use core::arch::x86_64::{
    __m128i, _mm_aeskeygenassist_si128, _mm_set_epi32, _mm_set_epi64x, _mm_shuffle_epi32,
    _mm_slli_si128, _mm_xor_si128,
};
#[cfg(target_feature = "vaes")]
use core::arch::x86_64::{
    __m256i, _mm256_aesenc_epi128, _mm256_aesenclast_epi128, _mm256_broadcastsi128_si256,
    _mm256_set_m128i, _mm256_storeu_si256, _mm256_xor_si256,
};
#[cfg(not(target_feature = "vaes"))]
use core::arch::x86_64::{_mm_aesenc_si128, _mm_aesenclast_si128, _mm_storeu_si128};

#[cfg(not(target_feature = "aes"))]
compile_error!(
    "the enclave needs the processor's AES instructions: add -Ctarget-feature=+aes to the flags that replaced those of \
     enclave/.cargo/config.toml"
);

/// Rounds of AES-256.
const ROUNDS: usize = 14;

/// Blocks that are computed at once: as many as the instruction's latency has room for.
pub const AES_BLOCKS: usize = 16;

/// One block of the key stream: four words, little-endian.
pub type AesBlock = [u32; 4];

/// AES-256 under one key, in counter mode.
pub struct Aes256Ctr {
    keys: [__m128i; ROUNDS + 1],
}

impl Aes256Ctr {
    /// The cipher under a 32-byte key.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        // SAFETY: the crate is compiled for processors with these instructions only (above), and the loader runs an image on
        // no other.
        unsafe { expand(key) }
    }

    /// The key stream's blocks with the given counters: block `i` is the cipher of `nonce (3 words LE) ‖ counters[i] (BE)`.
    #[inline]
    pub fn blocks(
        &self,
        nonce: [u32; 3],
        counters: &[u32; AES_BLOCKS],
        out: &mut [AesBlock; AES_BLOCKS],
    ) {
        // SAFETY: as in `new`.
        unsafe { encrypt(&self.keys, nonce, counters, out) }
    }
}

impl Drop for Aes256Ctr {
    fn drop(&mut self) {
        // SAFETY: a vector register's type has no invalid values, and no destructor.
        unsafe { core::ptr::write_volatile(&raw mut self.keys, core::mem::zeroed()) };
    }
}

/// The key schedule, FIPS 197 section 5.2.
#[target_feature(enable = "aes")]
fn expand(key: &[u8; 32]) -> Aes256Ctr {
    let (words, _) = key.as_chunks::<8>();
    let word = |index: usize| {
        words
            .get(index)
            .map_or(0, |bytes| i64::from_le_bytes(*bytes))
    };
    let (mut low, mut high) = (
        _mm_set_epi64x(word(1), word(0)),
        _mm_set_epi64x(word(3), word(2)),
    );
    let mut keys = [low; ROUNDS + 1];
    let mut places = keys.iter_mut();
    let mut put = |value| {
        if let Some(place) = places.next() {
            *place = value;
        }
    };
    put(low);
    put(high);
    macro_rules! double {
        ($($constant:literal)*) => { $(
            low = next(low, _mm_shuffle_epi32::<0xff>(_mm_aeskeygenassist_si128::<$constant>(high)));
            put(low);
            high = next(high, _mm_shuffle_epi32::<0xaa>(_mm_aeskeygenassist_si128::<0>(low)));
            put(high);
        )* };
    }
    double!(0x01 0x02 0x04 0x08 0x10 0x20 0x40);
    Aes256Ctr { keys }
}

/// Four words of the schedule from the four that are a key's length before, and the word that goes into the first.
#[target_feature(enable = "aes")]
fn next(mut before: __m128i, assist: __m128i) -> __m128i {
    before = _mm_xor_si128(before, _mm_slli_si128::<4>(before));
    before = _mm_xor_si128(before, _mm_slli_si128::<8>(before));
    _mm_xor_si128(before, assist)
}

/// Keeps the compiler from finishing one block before it starts the next: a round's instructions wait for the last round's,
/// so they are as quick as there are blocks between them.
macro_rules! abreast {
    ($register:ident, $class:ident) => {
        #[inline(always)]
        fn abreast(mut state: [$register; 8]) -> [$register; 8] {
            let [a, b, c, d, e, f, g, h] = &mut state;
            // SAFETY: no instruction at all; the registers stay as they are.
            unsafe {
                core::arch::asm!(
                    "/* {} {} {} {} {} {} {} {} */",
                    inout($class) * a,
                    inout($class) * b,
                    inout($class) * c,
                    inout($class) * d,
                    inout($class) * e,
                    inout($class) * f,
                    inout($class) * g,
                    inout($class) * h,
                    options(pure, nomem, nostack, preserves_flags)
                );
            }
            state
        }
    };
}
#[cfg(not(target_feature = "vaes"))]
abreast!(__m128i, xmm_reg);
#[cfg(target_feature = "vaes")]
abreast!(__m256i, ymm_reg);

/// One counter block.
#[target_feature(enable = "aes")]
fn block(nonce: [u32; 3], counter: u32) -> __m128i {
    let [a, b, c] = nonce.map(|word| word as i32);
    _mm_set_epi32(counter.swap_bytes() as i32, c, b, a)
}

#[cfg(not(target_feature = "vaes"))]
#[target_feature(enable = "aes")]
fn encrypt(
    keys: &[__m128i; ROUNDS + 1],
    nonce: [u32; 3],
    counters: &[u32; AES_BLOCKS],
    out: &mut [AesBlock; AES_BLOCKS],
) {
    let [first, middle @ .., last] = keys;
    let (groups, _) = counters.as_chunks::<8>();
    let (outs, _) = out.as_chunks_mut::<8>();
    for (counters, out) in groups.iter().zip(outs) {
        let mut state = counters.map(|counter| _mm_xor_si128(block(nonce, counter), *first));
        for key in middle {
            state = abreast(state.map(|block| _mm_aesenc_si128(block, *key)));
        }
        for (block, out) in state.into_iter().zip(out) {
            let done = _mm_aesenclast_si128(block, *last);
            // SAFETY: `out` is 16 bytes, and the store asks for no alignment.
            unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), done) };
        }
    }
}

#[cfg(target_feature = "vaes")]
#[target_feature(enable = "vaes,avx2")]
fn encrypt(
    keys: &[__m128i; ROUNDS + 1],
    nonce: [u32; 3],
    counters: &[u32; AES_BLOCKS],
    out: &mut [AesBlock; AES_BLOCKS],
) {
    let wide = |key: &__m128i| _mm256_broadcastsi128_si256(*key);
    let [first, middle @ .., last] = keys;
    let (pairs, _) = counters.as_chunks::<2>();
    let (outs, _) = out.as_chunks_mut::<2>();
    let mut state: [__m256i; AES_BLOCKS / 2] = core::array::from_fn(|pair| {
        let [low, high] = pairs.get(pair).copied().unwrap_or_default();
        let blocks = _mm256_set_m128i(block(nonce, high), block(nonce, low));
        _mm256_xor_si256(blocks, wide(first))
    });
    for key in middle {
        let key = wide(key);
        state = abreast(state.map(|blocks| _mm256_aesenc_epi128(blocks, key)));
    }
    for (blocks, out) in state.into_iter().zip(outs) {
        let done = _mm256_aesenclast_epi128(blocks, wide(last));
        // SAFETY: `out` is 32 bytes, and the store asks for no alignment.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), done) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_block(key: [u8; 32], nonce: [u32; 3], counter: u32) -> [u8; 16] {
        let mut out = [[0; 4]; AES_BLOCKS];
        Aes256Ctr::new(&key).blocks(nonce, &[counter; AES_BLOCKS], &mut out);
        assert!(out.iter().all(|block| *block == out[0]));
        core::array::from_fn(|i| out[0][i / 4].to_le_bytes()[i % 4])
    }

    fn words(bytes: [u8; 16]) -> ([u32; 3], u32) {
        let word = |i: usize| [bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]];
        (
            [0, 4, 8].map(|i| u32::from_le_bytes(word(i))),
            u32::from_be_bytes(word(12)),
        )
    }

    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        core::array::from_fn(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
    }

    /// FIPS 197, appendix C.3.
    #[test]
    fn block_of_the_standard() {
        let key = core::array::from_fn(|i| i as u8);
        let (nonce, counter) = words(bytes("00112233445566778899aabbccddeeff"));
        assert_eq!(
            first_block(key, nonce, counter),
            bytes("8ea2b7ca516745bfeafc49904b496089")
        );
    }

    /// SP 800-38A, section F.5.5: the key stream is the published output block.
    #[test]
    fn counter_mode_of_the_standard() {
        let key = bytes("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4");
        let (nonce, counter) = words(bytes("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"));
        for (added, expected) in [
            "0bdf7df1591716335e9a8b15c860c502",
            "5a6e699d536119065433863c8f657b94",
            "1bc12c9c01610d5d0d8bd6a3378eca62",
            "2956e1c8693536b1bee99c73a31576b6",
        ]
        .into_iter()
        .enumerate()
        {
            // The standard's counter has 128 bits: its first increment carries over from the lowest byte.
            let (nonce, counter) = (nonce, counter.wrapping_add(added as u32));
            assert_eq!(first_block(key, nonce, counter), bytes(expected));
        }
    }

    #[test]
    fn every_counter_has_its_block() {
        let cipher = Aes256Ctr::new(&[7; 32]);
        let (mut out, mut single) = ([[0; 4]; AES_BLOCKS], [[0; 4]; AES_BLOCKS]);
        let counters = core::array::from_fn(|i| 1000 - 3 * i as u32);
        cipher.blocks([1, 2, 3], &counters, &mut out);
        for (block, counter) in out.iter().zip(counters) {
            cipher.blocks([1, 2, 3], &[counter; AES_BLOCKS], &mut single);
            assert_eq!(*block, single[0]);
        }
    }
}
