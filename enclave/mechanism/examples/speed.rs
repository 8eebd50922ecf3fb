//! Draws of noise, released coordinates and elements of dropout's masks per second on one core, and the time of one sample: best of many short runs.
//!
//! ```text
//! RUSTFLAGS="-C target-cpu=x86-64-v3 -C target-feature=+aes" cargo run --release -p myelin-mechanism --example speed
//! ```
//!
//! The target is an image's (`myelin.image.runtime`): x86-64-v3, or x86-64-v4 with `+aes,+vaes`.
use std::hint::black_box;
use std::time::Instant;

use myelin_mechanism::{Dropout, Sampler, dropout, noise, sum};

/// Coordinates of one stream of noise, which one task of the engine releases.
const TASK: usize = noise::CHUNK_COORDINATES as usize;

fn best(mut work: impl FnMut()) -> f64 {
    (0..200).fold(f64::INFINITY, |best, _| {
        let start = Instant::now();
        work();
        best.min(start.elapsed().as_secs_f64())
    })
}

fn report(what: &str, count: usize, seconds: f64) {
    let (millions, nanoseconds) = (count as f64 / seconds / 1e6, seconds / count as f64 * 1e9);
    println!("{what}: {millions:.1} million/s, {nanoseconds:.2} ns each");
}

fn main() {
    let key = [7u8; 32];
    let sums: Vec<f64> = (0..16 * TASK).map(|i| i as f64 * 1e-3 - 30.0).collect();
    let mut out = vec![0f32; sums.len()];
    let mut units = [0i32; TASK];
    let seconds = best(|| {
        for first in (0..sums.len()).step_by(TASK) {
            noise::fill(&key, 1, first as u64, &mut units);
            black_box(&units);
        }
    });
    report("draws of noise", sums.len(), seconds);
    let seconds = best(|| {
        for (sums, out) in sums.chunks(TASK).zip(out.chunks_mut(TASK)) {
            black_box(sum::noisy(sums, 1e-3, 256, black_box(&units), out));
            black_box(&out);
        }
    });
    report("sums onto the grid and back", sums.len(), seconds);
    let seconds = best(|| {
        for (task, (sums, out)) in sums.chunks(TASK).zip(out.chunks_mut(TASK)).enumerate() {
            noise::fill(&key, 1, (task * TASK) as u64, &mut units);
            black_box(sum::noisy(sums, 1e-3, 256, &units, out));
            black_box(&out);
        }
    });
    report("coordinates released", sums.len(), seconds);
    for elements in [32, 512, 16_384] {
        let mut masks = Dropout::new(&key, 1);
        let seconds = best(|| {
            for (record, out) in (0..).zip(out.chunks_mut(elements)) {
                masks.fill(record, 0, 3 << 30, dropout::scale(3 << 30), out);
            }
            black_box(&out);
        });
        report(
            &format!("elements of masks, {elements} an example"),
            out.len(),
            seconds,
        );
    }
    for (records, expected, capacity) in [
        (455u32, 64u64, 128u32),
        (60_000, 512, 640),
        (60_000, 1024, 1280),
    ] {
        let threshold = ((u128::from(expected) << 64) / u128::from(records)) as u64;
        let mut slots = vec![0u32; capacity as usize];
        let seconds = best(|| {
            Sampler::draw(&key, 1, records, threshold, capacity, &mut slots, &mut []);
        });
        println!(
            "sampler: {records} records, batch {expected}, capacity {capacity}: {:.1} us",
            seconds * 1e6
        );
    }
}
