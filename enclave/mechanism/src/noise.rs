//! Integer Gaussian noise.
use crate::keystream::{Keystream, LANES, Row, Rows};
use crate::table::THRESHOLDS;

/// Standard deviation of the integer noise, in grid units: 12 × 2^16.
pub const SIGMA_UNITS: u32 = 12 << 16;

/// Coordinates made from one stream of the generator.
pub const CHUNK_COORDINATES: u64 = 4096;

/// Draws that one group of sixteen blocks gives.
const GROUP_DRAWS: usize = 2 * LANES;

/// The largest draw in magnitude.
pub const MAX_UNITS: i64 = ((THRESHOLDS.len() as i64) << 16) + 6 * 65535;

/// Sixteen draws from eight words of sixteen blocks.
#[inline(always)]
fn draws(rows: &[Row; 8]) -> [i64; LANES] {
    let words: [u64; LANES] =
        core::array::from_fn(|l| (u64::from(rows[1][l]) << 32) | u64::from(rows[0][l]));
    let level: [i64; LANES] = core::array::from_fn(|l| (words[l] >> 1) as i64);
    let mut magnitude = [0i64; LANES];
    for threshold in THRESHOLDS {
        for l in 0..LANES {
            magnitude[l] += i64::from(level[l] >= threshold);
        }
    }
    let mut uniform = [0u32; LANES];
    for row in &rows[2..] {
        for l in 0..LANES {
            uniform[l] += (row[l] & 0xffff) + (row[l] >> 16);
        }
    }
    core::array::from_fn(|l| {
        let sign = -((words[l] & 1) as i64);
        (((magnitude[l] ^ sign) - sign) << 16) + i64::from(uniform[l]) - 6 * 65535
    })
}

#[inline(always)]
fn group(stream: &Keystream, first_block: u32) -> [i64; GROUP_DRAWS] {
    let rows: Rows = stream.group(first_block);
    let [
        r0,
        r1,
        r2,
        r3,
        r4,
        r5,
        r6,
        r7,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
    ] = rows;
    let low = draws(&[r0, r1, r2, r3, r4, r5, r6, r7]);
    let high = draws(&[r8, r9, r10, r11, r12, r13, r14, r15]);
    core::array::from_fn(|d| if d < LANES { low[d] } else { high[d - LANES] })
}

/// Fills `out` with the noise of the coordinates from `first_coordinate` on.
pub fn fill(key: &[u8; 32], step: u64, first_coordinate: u64, out: &mut [i64]) {
    let mut coordinate = first_coordinate;
    let mut rest = out;
    while !rest.is_empty() {
        let within = coordinate % CHUNK_COORDINATES;
        let length = rest.len().min((CHUNK_COORDINATES - within) as usize);
        let (chunk, after) = core::mem::take(&mut rest).split_at_mut(length);
        let stream = Keystream::new(key, step, (coordinate / CHUNK_COORDINATES) as u32);
        fill_chunk(&stream, within as usize, chunk);
        coordinate += length as u64;
        rest = after;
    }
}

fn fill_chunk(stream: &Keystream, within: usize, out: &mut [i64]) {
    let skip = within % GROUP_DRAWS;
    let mut block = (within / GROUP_DRAWS * LANES) as u32;
    let head = if skip == 0 {
        0
    } else {
        out.len().min(GROUP_DRAWS - skip)
    };
    let (head, body) = out.split_at_mut(head);
    if !head.is_empty() {
        let draws = group(stream, block);
        head.copy_from_slice(&draws[skip..skip + head.len()]);
        block += LANES as u32;
    }
    let (groups, tail) = body.as_chunks_mut::<GROUP_DRAWS>();
    for out in groups {
        *out = group(stream, block);
        block += LANES as u32;
    }
    if !tail.is_empty() {
        tail.copy_from_slice(&group(stream, block)[..tail.len()]);
    }
}
