//! Speed.
use std::time::Instant;
fn main() {
    let mut out = vec![0i64; 1 << 20];
    let key = [7u8; 32];
    for _ in 0..3 {
        let t = Instant::now();
        for s in 0..8 {
            myelin_mechanism::noise::fill(&key, s, 0, &mut out);
        }
        let d = t.elapsed().as_secs_f64();
        println!("{:.1} M/s", 8.0 * out.len() as f64 / d / 1e6);
    }
    let m = out.iter().map(|&x| x as f64).sum::<f64>() / out.len() as f64;
    let v = out.iter().map(|&x| (x as f64).powi(2)).sum::<f64>() / out.len() as f64;
    println!("mean {m} sd {} max {}", v.sqrt(), out.iter().max().unwrap());
}
