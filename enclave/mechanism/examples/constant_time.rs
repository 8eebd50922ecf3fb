//! One sample, one range of noise, one release, one mask and one view under a key from the command line, for a trace of memory and control:
//!
//! ```text
//! valgrind --tool=lackey --trace-mem=yes constant_time 1
//! ```
//!
//! The traces of two keys are equal line by line: every instruction fetched and every address read or written.

use core::hint::black_box;
use myelin_mechanism::augment::Size;
use myelin_mechanism::{Augment, Augmentation, Dropout, Sampler, dropout, noise, sum};

fn main() {
    let seed = std::env::args()
        .nth(1)
        .and_then(|word| word.bytes().next())
        .unwrap_or(0);
    let key: [u8; 32] = core::array::from_fn(|i| seed.wrapping_mul(i as u8 + 1));
    let mut slots = [0u32; 200];
    let mut chosen = [0u8; 455];
    // Sizes at which a draw never overflows, sometimes does, and always does.
    for (records, threshold, capacity) in [
        (455, u64::MAX / 7, 128),
        (455, u64::MAX / 7, 64),
        (455, u64::MAX / 2, 150),
    ] {
        black_box(Sampler::draw(
            &key,
            3,
            records,
            threshold,
            capacity,
            &mut slots,
            &mut chosen,
        ));
        black_box((&slots, &chosen));
    }
    let mut units = [0i32; 300];
    noise::fill(&key, 3, 4000, &mut units);
    let sums: [f64; 300] = core::array::from_fn(|i| f64::from(seed.wrapping_mul(i as u8)) - 100.0);
    let mut out = [0f32; 300];
    black_box(sum::noisy(&sums, 1e-3, 64, &units, &mut out));
    black_box(&out);
    // Whose mask it is is as secret as the key.
    let record = u32::from(seed).wrapping_mul(0x0101_0101);
    Dropout::new(&key, 3).fill(record, 5, 3 << 30, dropout::scale(3 << 30), &mut out);
    black_box(&out);
    // So is whose view it is.
    let size = Size {
        planes: 3,
        height: 9,
        width: 11,
    };
    let list = [false, true].map(|reflected| Augmentation::Crop {
        padding: 3,
        reflected,
    });
    let list = [Augmentation::Flip, list[0], list[1]];
    let (out, plane) = (&mut out[..297], &mut [0f32; 99]);
    Augment::new(&key, 3).apply(record, 2, &list, size, out, plane);
    black_box(out);
}
