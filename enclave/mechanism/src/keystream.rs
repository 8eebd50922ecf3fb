//! The pseudorandom function behind sampler and noise: ChaCha20 (RFC 8439), sixteen blocks at once.
//!
//! The cipher is written here over arrays of sixteen lanes, one block to a lane, and not taken from the `chacha20`
//! crate, for three reasons: sampler and noise use the state in this order, so nothing is transposed; safe code over
//! arrays becomes the same vector instructions; and nothing looks at the processor at run time (`cpuid` is forbidden in
//! the image). Tests hold it against RFC 8439, and sampler and noise against references that use OpenSSL.

#![allow(
    clippy::indexing_slicing,
    reason = "loop counters into arrays of fixed length; bounds checks vanish, and lanes become vectors"
)]

/// Blocks made at once: the lanes of every array here.
pub(crate) const LANES: usize = 16;

/// One 32-bit word of sixteen consecutive blocks.
pub(crate) type Row = [u32; LANES];

/// Words of sixteen blocks: `rows[w][l]` is word `w` of block `first + l`.
pub(crate) type Rows = [Row; 16];

const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// One of the four parts of four quarter rounds: `a += b; d = (d ^ a) <<< r`. The four are written side by side, because
/// they do not depend on each other and a processor looks only so far ahead.
macro_rules! quarter {
    ($r:literal; $a0:ident $a1:ident $a2:ident $a3:ident, $b0:ident $b1:ident $b2:ident $b3:ident,
     $d0:ident $d1:ident $d2:ident $d3:ident) => {
        $a0 = $a0.wrapping_add($b0);
        $a1 = $a1.wrapping_add($b1);
        $a2 = $a2.wrapping_add($b2);
        $a3 = $a3.wrapping_add($b3);
        $d0 = ($d0 ^ $a0).rotate_left($r);
        $d1 = ($d1 ^ $a1).rotate_left($r);
        $d2 = ($d2 ^ $a2).rotate_left($r);
        $d3 = ($d3 ^ $a3).rotate_left($r);
    };
}

/// Two rounds for each `r` in the list, written out: the loop over lanes around them then has no inner loop.
macro_rules! double_rounds {
    ($x0:ident $x1:ident $x2:ident $x3:ident $x4:ident $x5:ident $x6:ident $x7:ident
     $x8:ident $x9:ident $x10:ident $x11:ident $x12:ident $x13:ident $x14:ident $x15:ident; $($r:literal)*) => {
        $(
            let _ = $r;
            quarter!(16; $x0 $x1 $x2 $x3, $x4 $x5 $x6 $x7, $x12 $x13 $x14 $x15);
            quarter!(12; $x8 $x9 $x10 $x11, $x12 $x13 $x14 $x15, $x4 $x5 $x6 $x7);
            quarter!(8; $x0 $x1 $x2 $x3, $x4 $x5 $x6 $x7, $x12 $x13 $x14 $x15);
            quarter!(7; $x8 $x9 $x10 $x11, $x12 $x13 $x14 $x15, $x4 $x5 $x6 $x7);
            quarter!(16; $x0 $x1 $x2 $x3, $x5 $x6 $x7 $x4, $x15 $x12 $x13 $x14);
            quarter!(12; $x10 $x11 $x8 $x9, $x15 $x12 $x13 $x14, $x5 $x6 $x7 $x4);
            quarter!(8; $x0 $x1 $x2 $x3, $x5 $x6 $x7 $x4, $x15 $x12 $x13 $x14);
            quarter!(7; $x10 $x11 $x8 $x9, $x15 $x12 $x13 $x14, $x5 $x6 $x7 $x4);
        )*
    };
}

/// One keyed stream of ChaCha20: a 32-byte key and the nonce `step (u64 LE) ‖ stream (u32 LE)`.
///
/// Holds the key; it is overwritten when dropped.
pub(crate) struct Keystream {
    key: [u32; 8],
    nonce: [u32; 3],
}

impl Keystream {
    /// The stream `stream` of step `step` under `key`.
    pub(crate) fn new(key: &[u8; 32], step: u64, stream: u32) -> Self {
        let (words, _) = key.as_chunks::<4>();
        let mut wide = [0u32; 8];
        for (word, bytes) in wide.iter_mut().zip(words) {
            *word = u32::from_le_bytes(*bytes);
        }
        Self {
            key: wide,
            nonce: [step as u32, (step >> 32) as u32, stream],
        }
    }

    /// The sixteen blocks with the given block counters, into `rows`.
    #[inline]
    pub(crate) fn blocks(&self, counters: &Row, rows: &mut Rows) {
        let [c0, c1, c2, c3] = CONSTANTS;
        let [k0, k1, k2, k3, k4, k5, k6, k7] = self.key;
        let [n0, n1, n2] = self.nonce;
        for l in 0..LANES {
            let (mut x0, mut x1, mut x2, mut x3) = (c0, c1, c2, c3);
            let (mut x4, mut x5, mut x6, mut x7) = (k0, k1, k2, k3);
            let (mut x8, mut x9, mut x10, mut x11) = (k4, k5, k6, k7);
            let (mut x12, mut x13, mut x14, mut x15) = (counters[l], n0, n1, n2);
            double_rounds!(x0 x1 x2 x3 x4 x5 x6 x7 x8 x9 x10 x11 x12 x13 x14 x15; 0 1 2 3 4 5 6 7 8 9);
            rows[0][l] = x0.wrapping_add(c0);
            rows[1][l] = x1.wrapping_add(c1);
            rows[2][l] = x2.wrapping_add(c2);
            rows[3][l] = x3.wrapping_add(c3);
            rows[4][l] = x4.wrapping_add(k0);
            rows[5][l] = x5.wrapping_add(k1);
            rows[6][l] = x6.wrapping_add(k2);
            rows[7][l] = x7.wrapping_add(k3);
            rows[8][l] = x8.wrapping_add(k4);
            rows[9][l] = x9.wrapping_add(k5);
            rows[10][l] = x10.wrapping_add(k6);
            rows[11][l] = x11.wrapping_add(k7);
            rows[12][l] = x12.wrapping_add(counters[l]);
            rows[13][l] = x13.wrapping_add(n0);
            rows[14][l] = x14.wrapping_add(n1);
            rows[15][l] = x15.wrapping_add(n2);
        }
    }

    /// The sixteen blocks that start at block `first` (a counter past 2^32 wraps, and callers keep below it).
    #[inline]
    pub(crate) fn group(&self, first: u32, rows: &mut Rows) {
        let counters: Row = core::array::from_fn(|l| first.wrapping_add(l as u32));
        self.blocks(&counters, rows);
    }
}

impl Drop for Keystream {
    fn drop(&mut self) {
        self.key = [0; 8];
        // Keeps the compiler from removing the overwrite as a dead store.
        core::hint::black_box(&mut self.key);
    }
}

#[cfg(test)]
#[path = "keystream_tests.rs"]
mod tests;
