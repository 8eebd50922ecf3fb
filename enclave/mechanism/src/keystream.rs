//! The pseudorandom function behind sampler and noise: ChaCha20 (RFC 8439), sixteen blocks at once.
//!
//! The cipher is written here over arrays of sixteen lanes, one block to a lane, and not taken from the `chacha20`
//! crate, for three reasons: sampler and noise use the state in this order, so nothing is transposed; safe code over
//! arrays becomes the same vector instructions; and nothing looks at the processor at run time (`cpuid` is forbidden in
//! the image). Tests hold it against RFC 8439 and against the crate.

/// Blocks made at once: the lanes of every array here.
pub(crate) const LANES: usize = 16;

/// One 32-bit word of sixteen consecutive blocks.
pub(crate) type Row = [u32; LANES];

/// Words of sixteen blocks: `rows[w][l]` is word `w` of block `first + l`.
pub(crate) type Rows = [Row; 16];

const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

#[inline(always)]
fn add(a: Row, b: Row) -> Row {
    core::array::from_fn(|l| a[l].wrapping_add(b[l]))
}

#[inline(always)]
fn xor_rotate<const BITS: u32>(a: Row, b: Row) -> Row {
    core::array::from_fn(|l| (a[l] ^ b[l]).rotate_left(BITS))
}

#[inline(always)]
fn quarter_round(mut a: Row, mut b: Row, mut c: Row, mut d: Row) -> (Row, Row, Row, Row) {
    a = add(a, b);
    d = xor_rotate::<16>(d, a);
    c = add(c, d);
    b = xor_rotate::<12>(b, c);
    a = add(a, b);
    d = xor_rotate::<8>(d, a);
    c = add(c, d);
    b = xor_rotate::<7>(b, c);
    (a, b, c, d)
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

    /// The sixteen blocks with the given block counters.
    #[inline(always)]
    pub(crate) fn blocks(&self, counters: Row) -> Rows {
        let [c0, c1, c2, c3] = CONSTANTS.map(|word| [word; LANES]);
        let [k0, k1, k2, k3, k4, k5, k6, k7] = self.key.map(|word| [word; LANES]);
        let [n0, n1, n2] = self.nonce.map(|word| [word; LANES]);
        let start: Rows = [
            c0, c1, c2, c3, k0, k1, k2, k3, k4, k5, k6, k7, counters, n0, n1, n2,
        ];
        let [
            mut x0,
            mut x1,
            mut x2,
            mut x3,
            mut x4,
            mut x5,
            mut x6,
            mut x7,
            ..,
        ] = start;
        let [
            ..,
            mut x8,
            mut x9,
            mut x10,
            mut x11,
            mut x12,
            mut x13,
            mut x14,
            mut x15,
        ] = start;
        for _ in 0..10 {
            (x0, x4, x8, x12) = quarter_round(x0, x4, x8, x12);
            (x1, x5, x9, x13) = quarter_round(x1, x5, x9, x13);
            (x2, x6, x10, x14) = quarter_round(x2, x6, x10, x14);
            (x3, x7, x11, x15) = quarter_round(x3, x7, x11, x15);
            (x0, x5, x10, x15) = quarter_round(x0, x5, x10, x15);
            (x1, x6, x11, x12) = quarter_round(x1, x6, x11, x12);
            (x2, x7, x8, x13) = quarter_round(x2, x7, x8, x13);
            (x3, x4, x9, x14) = quarter_round(x3, x4, x9, x14);
        }
        let mixed: Rows = [
            x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, x10, x11, x12, x13, x14, x15,
        ];
        core::array::from_fn(|w| add(mixed[w], start[w]))
    }

    /// The sixteen blocks that start at block `first` (a counter past 2^32 wraps, and callers keep below it).
    #[inline(always)]
    pub(crate) fn group(&self, first: u32) -> Rows {
        self.blocks(core::array::from_fn(|l| first.wrapping_add(l as u32)))
    }
}

impl Drop for Keystream {
    fn drop(&mut self) {
        self.key = [0; 8];
        // Keeps the compiler from removing the overwrite as a dead store.
        core::hint::black_box(&mut self.key);
    }
}
