//! Draws per second of the noise, and the time of one sample: best of many short runs.
use std::time::Instant;

fn best(mut work: impl FnMut()) -> f64 {
    (0..200).fold(f64::INFINITY, |best, _| {
        let start = Instant::now();
        work();
        best.min(start.elapsed().as_secs_f64())
    })
}

fn main() {
    let key = [7u8; 32];
    let mut noise = vec![0i32; 1 << 16];
    let seconds = best(|| myelin_mechanism::noise::fill(&key, 1, 0, &mut noise));
    println!(
        "noise: {:.1} million draws/s",
        noise.len() as f64 / seconds / 1e6
    );
    for (records, expected, capacity) in [
        (455u32, 64u64, 128u32),
        (60_000, 512, 640),
        (60_000, 1024, 1280),
    ] {
        let threshold = ((u128::from(expected) << 64) / u128::from(records)) as u64;
        let mut slots = vec![0u32; capacity as usize];
        let seconds = best(|| {
            myelin_mechanism::Sampler::draw(&key, 1, records, threshold, capacity, &mut slots);
        });
        println!(
            "sampler: {records} records, batch {expected}, capacity {capacity}: {:.1} us",
            seconds * 1e6
        );
    }
}
