//! Integer Gaussian noise.
use crate::keystream::{Keystream, LANES, Row, Rows};
use crate::table::{ROWS, reached};

/// Standard deviation of the integer noise, in grid units: 12 × 2^16.
pub const SIGMA_UNITS: u32 = 12 << 16;

/// Coordinates made from one stream of the generator.
pub const CHUNK_COORDINATES: u64 = 4096;

/// Draws that one group of sixteen blocks gives.
const GROUP_DRAWS: usize = 2 * LANES;

/// The largest draw in magnitude.
pub const MAX_UNITS: i64 = ((ROWS as i64) << 16) + 6 * 65535;

/// Sixteen draws from eight words of sixteen blocks.
#[inline]
fn draws(rows: &[Row; 8], out: &mut [i64; LANES]) {
    for l in 0..LANES {
        let word = (u64::from(rows[1][l]) << 32) | u64::from(rows[0][l]);
        let magnitude = reached((word >> 1) as i64);
        let sign = -((word & 1) as i64);
        let coarse = ((magnitude ^ sign).wrapping_sub(sign)) << 16;
        let mut fine = 0u32;
        fine = fine.wrapping_add((rows[2][l] & 0xffff) + (rows[2][l] >> 16));
        fine = fine.wrapping_add((rows[3][l] & 0xffff) + (rows[3][l] >> 16));
        fine = fine.wrapping_add((rows[4][l] & 0xffff) + (rows[4][l] >> 16));
        fine = fine.wrapping_add((rows[5][l] & 0xffff) + (rows[5][l] >> 16));
        fine = fine.wrapping_add((rows[6][l] & 0xffff) + (rows[6][l] >> 16));
        fine = fine.wrapping_add((rows[7][l] & 0xffff) + (rows[7][l] >> 16));
        out[l] = coarse.wrapping_add(i64::from(fine)).wrapping_sub(6 * 65535);
    }
}

fn group(stream: &Keystream, first_block: u32, out: &mut [i64; GROUP_DRAWS]) {
    let mut rows: Rows = [[0; LANES]; 16];
    stream.group(first_block, &mut rows);
    let (halves, _) = rows.as_chunks::<8>();
    let (outs, _) = out.as_chunks_mut::<LANES>();
    for (half, out) in halves.iter().zip(outs) {
        draws(half, out);
    }
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
    let mut partial = [0; GROUP_DRAWS];
    if !head.is_empty() {
        group(stream, block, &mut partial);
        head.copy_from_slice(&partial[skip..skip + head.len()]);
        block += LANES as u32;
    }
    let (groups, tail) = body.as_chunks_mut::<GROUP_DRAWS>();
    for out in groups {
        group(stream, block, out);
        block += LANES as u32;
    }
    if !tail.is_empty() {
        group(stream, block, &mut partial);
        tail.copy_from_slice(&partial[..tail.len()]);
    }
}
