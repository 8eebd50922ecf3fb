//! Secret Poisson sampling into a fixed number of slots.
use crate::keystream::{Keystream, LANES};

/// The sampler.
pub struct Sampler;

impl Sampler {
    /// Draws.
    pub fn draw(
        key: &[u8; 32],
        step: u64,
        dataset_size: u32,
        threshold: u64,
        capacity: u32,
        out: &mut [u32],
    ) -> u32 {
        let stream = Keystream::new(key, step, 0);
        out.fill(u32::MAX);
        let mut count = 0usize;
        for group in 0..dataset_size.div_ceil(128) {
            let rows = stream.group(group * 16);
            for j in 0..8 {
                for l in 0..LANES {
                    let index = group * 128 + (16 * j + l) as u32;
                    let word = (u64::from(rows[2 * j + 1][l]) << 32) | u64::from(rows[2 * j][l]);
                    if index < dataset_size && word < threshold {
                        if count < capacity as usize {
                            out[count] = index;
                        }
                        count += 1;
                    }
                }
            }
        }
        count.min(capacity as usize) as u32
    }
}
