//! Frames, `u32 little-endian length ‖ bytes`, in bounded memory.

use std::io::{ErrorKind, Read, Write};

use crate::fault::Fault;

/// Most bytes of an answer that is carried. What the loader sends is never longer.
pub const FRAME_BYTES_LIMIT: usize = 1 << 20;

const PREFIX_BYTES: usize = 4;
const STEP_BYTES: usize = 64 << 10;

/// Fills `buffer`; fewer bytes mean that the stream has ended.
fn fill(from: &mut impl Read, buffer: &mut [u8], what: &str) -> Result<usize, Fault> {
    let mut there = 0;
    while let Some(rest) = buffer.get_mut(there..).filter(|rest| !rest.is_empty()) {
        match from.read(rest) {
            Ok(0) => break,
            Ok(taken) => there += taken,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Fault::new(what, error)),
        }
    }
    Ok(there)
}

/// A frame's length, or nothing where the stream ended before it.
fn prefix(from: &mut impl Read, what: &str) -> Result<Option<[u8; PREFIX_BYTES]>, Fault> {
    let mut prefix = [0; PREFIX_BYTES];
    match fill(from, &mut prefix, what)? {
        0 => Ok(None),
        PREFIX_BYTES => Ok(Some(prefix)),
        _ => Err(Fault::new(what, "ended inside a frame")),
    }
}

/// Reads one frame of at most [`FRAME_BYTES_LIMIT`] bytes; nothing where the stream has ended.
pub fn receive(from: &mut impl Read, what: &str) -> Result<Option<Vec<u8>>, Fault> {
    let Some(prefix) = prefix(from, what)? else { return Ok(None) };
    let length = u32::from_le_bytes(prefix) as usize;
    if length > FRAME_BYTES_LIMIT {
        return Err(Fault::new(what, format!("a frame of {length} bytes, expected at most {FRAME_BYTES_LIMIT}")));
    }
    let mut bytes = vec![0; length];
    if fill(from, &mut bytes, what)? < length {
        return Err(Fault::new(what, "ended inside a frame"));
    }
    Ok(Some(bytes))
}

/// Writes one frame.
pub fn send(to: &mut impl Write, bytes: &[u8], what: &str) -> Result<(), Fault> {
    let length = u32::try_from(bytes.len()).map_err(|error| Fault::new(what, error))?;
    let frame = [&length.to_le_bytes(), bytes].concat();
    to.write_all(&frame).and_then(|()| to.flush()).map_err(|error| Fault::new(what, error))
}

/// Hands one frame on, of whatever length it says, in pieces; `false` where there is none any more.
///
/// Nothing of it is looked at: the image is the one that judges it, its length too.
pub fn forward(from: &mut impl Read, to: &mut impl Write, what: &str) -> Result<bool, Fault> {
    let Some(prefix) = prefix(from, what)? else { return Ok(false) };
    to.write_all(&prefix).map_err(|error| Fault::new("the loader's input", error))?;
    let mut left = u32::from_le_bytes(prefix) as usize;
    let mut buffer = vec![0; STEP_BYTES.min(left)];
    while left > 0 {
        let step = left.min(buffer.len());
        let piece = buffer.get_mut(..step).unwrap_or_default();
        if fill(from, piece, what)? < step {
            return Err(Fault::new(what, "ended inside a frame"));
        }
        to.write_all(piece).map_err(|error| Fault::new("the loader's input", error))?;
        left -= step;
    }
    to.flush().map_err(|error| Fault::new("the loader's input", error))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_go_through_whole_or_not_at_all() {
        let mut wire = Vec::new();
        send(&mut wire, b"abc", "test").ok();
        send(&mut wire, b"", "test").ok();
        let mut input = wire.as_slice();
        assert_eq!(receive(&mut input, "test").ok(), Some(Some(b"abc".to_vec())));
        assert_eq!(receive(&mut input, "test").ok(), Some(Some(vec![])));
        assert_eq!(receive(&mut input, "test").ok(), Some(None));
        for end in 1..7 {
            let mut cut = wire.get(..end).unwrap_or_default();
            assert!(receive(&mut cut, "test").is_err(), "{end}");
            let mut cut = wire.get(..end).unwrap_or_default();
            assert!(forward(&mut cut, &mut Vec::new(), "test").is_err(), "{end}");
        }
    }

    #[test]
    fn an_answer_is_bounded_and_a_request_is_not() {
        let length = FRAME_BYTES_LIMIT as u32 + 1;
        let wire = [&length.to_le_bytes()[..], &vec![7; length as usize]].concat();
        assert!(receive(&mut wire.as_slice(), "test").is_err());
        let mut out = Vec::new();
        assert_eq!(forward(&mut wire.as_slice(), &mut out, "test").ok(), Some(true));
        assert_eq!(out, wire);
    }
}
