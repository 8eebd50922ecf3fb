//! However the coordinates are split into ranges, the noise is the same.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use myelin_mechanism::noise;

/// A small generator for cases: SplitMix64.
struct Cases(u64);

impl Cases {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

#[test]
fn any_split_gives_the_same_draws() {
    let key = [0x5a; 32];
    let mut cases = Cases(1);
    for case in 0..60 {
        let first = cases.below(20_000);
        let count = 1 + cases.below(12_000) as usize;
        let mut whole = vec![0i32; count];
        noise::fill(&key, case, first, &mut whole);
        let mut parts = vec![0i32; count];
        let mut done = 0;
        while done < count {
            let most = [3, 40, 5000][cases.below(3) as usize];
            let length = (1 + cases.below(most) as usize).min(count - done);
            noise::fill(
                &key,
                case,
                first + done as u64,
                &mut parts[done..done + length],
            );
            done += length;
        }
        assert_eq!(whole, parts, "case {case}: {count} draws from {first}");
    }
}

#[test]
fn draws_are_bounded_and_a_range_past_the_end_is_left_alone() {
    let mut drawn = vec![0i32; 100_000];
    noise::fill(&[1; 32], 0, 0, &mut drawn);
    assert!(drawn.iter().all(|z| z.abs() <= noise::MAX_UNITS));
    let mut past = [7i32; 4];
    noise::fill(&[1; 32], 0, noise::MAX_COORDINATES, &mut past);
    assert_eq!(past, [7; 4]);
}
