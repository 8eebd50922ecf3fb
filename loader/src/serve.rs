//! Messages: frames on standard input and output, one entry of slot 0 for each.
//!
//! A frame is `u32 little-endian length ‖ bytes`. Nothing here allocates: the image is already running under the last list.

use std::fmt::Write as _;
use std::os::fd::BorrowedFd;

use myelin_abi::{ABI_VERSION, MESSAGE_BYTES, exit};
use nix::errno::Errno;

use crate::ending::Ending;
use crate::gate::Gate;
use crate::refusal::Reason;
use crate::sgx::structures::{REPORT_BYTES, TARGET_INFO_BYTES};

/// A length that no frame has: what follows is the name of a report's reader, and the answer is a report.
const REPORT_WANTED: u32 = u32::MAX;
/// Bytes of a frame's length.
const PREFIX_BYTES: usize = 4;
/// Most bytes of the text in a frame that the loader itself writes.
const NOTE_BYTES: usize = 16 << 10;

/// One frame in each direction, and the buffers for it.
pub struct Wire {
    outgoing: Vec<u8>,
    note: String,
}

impl Wire {
    /// Takes all memory that will be needed.
    pub fn new() -> Self {
        Self { outgoing: Vec::with_capacity(PREFIX_BYTES + MESSAGE_BYTES), note: String::with_capacity(NOTE_BYTES) }
    }

    /// Sends a frame, in as few writes as the pipe takes.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Ending> {
        let bytes = bytes.get(..MESSAGE_BYTES).unwrap_or(bytes);
        let length = u32::try_from(bytes.len()).map_err(|_| Ending::OutputClosed)?;
        self.outgoing.clear();
        self.outgoing.extend_from_slice(&length.to_le_bytes());
        self.outgoing.extend_from_slice(bytes);
        let mut rest = self.outgoing.as_slice();
        while !rest.is_empty() {
            // SAFETY: standard output is open for the life of the process.
            let output = unsafe { BorrowedFd::borrow_raw(libc::STDOUT_FILENO) };
            match nix::unistd::write(output, rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(Errno::EINTR) => {}
                Err(_) => return Err(Ending::OutputClosed),
            }
        }
        Ok(())
    }
}

/// Fills `buffer` from standard input; fewer bytes mean that the input has ended.
fn fill(buffer: &mut [u8]) -> usize {
    let mut there = 0;
    while let Some(rest) = buffer.get_mut(there..).filter(|rest| !rest.is_empty()) {
        // SAFETY: standard input is open for the life of the process.
        let input = unsafe { BorrowedFd::borrow_raw(libc::STDIN_FILENO) };
        match nix::unistd::read(input, rest) {
            Ok(0) => break,
            Ok(taken) => there += taken,
            Err(Errno::EINTR) => {}
            Err(_) => break,
        }
    }
    there
}

/// What the host wants.
enum Wanted {
    /// A message handled, of as many bytes as the host says.
    Message(u64),
    /// A report, of whatever runs the image.
    Report,
}

/// Takes one frame into the request buffer. Returns its length as the host says it.
///
/// A frame that is longer than a message is read to its end and handed on with its true length and only its first bytes:
/// the image is the one that refuses it, by the same error as on every loader.
fn receive(gate: &mut Gate) -> Result<Wanted, Ending> {
    let mut prefix = [0; PREFIX_BYTES];
    match fill(&mut prefix) {
        0 => return Err(Ending::InputClosed),
        PREFIX_BYTES => {}
        _ => return Err(Ending::InputTruncated),
    }
    let length = u32::from_le_bytes(prefix);
    if length == REPORT_WANTED && gate.makes_reports() {
        let filled = gate.request().get_mut(..TARGET_INFO_BYTES).map(fill);
        return if filled == Some(TARGET_INFO_BYTES) { Ok(Wanted::Report) } else { Err(Ending::InputTruncated) };
    }
    let length = length as usize;
    let request = gate.request();
    let kept = length.min(MESSAGE_BYTES);
    if let Some(room) = request.get_mut(..kept)
        && fill(room) != kept
    {
        return Err(Ending::InputTruncated);
    }
    let mut excess = length - kept;
    let mut scratch = [0; 4096];
    while excess > 0 {
        let step = excess.min(scratch.len());
        if scratch.get_mut(..step).map(fill) != Some(step) {
            return Err(Ending::InputTruncated);
        }
        excess -= step;
    }
    Ok(Wanted::Message(length as u64))
}

/// Has a report made and sends it.
fn report(gate: &mut Gate, wire: &mut Wire) -> Result<(), Ending> {
    if gate.report()? != 0 {
        return Err(Ending::ImageMisbehaved);
    }
    answer(gate, wire, REPORT_BYTES as u64)
}

/// Sends the reply that lies in the shared region.
fn answer(gate: &Gate, wire: &mut Wire, length: u64) -> Result<(), Ending> {
    let reply = usize::try_from(length).ok().and_then(|length| gate.reply().get(..length));
    wire.send(reply.ok_or(Ending::ImageMisbehaved)?)
}

/// The launch message: `[0, measurement, threads]` in deterministic CBOR.
fn write_launch(request: &mut [u8; MESSAGE_BYTES], measurement: &[u8; 32], threads: usize) -> u64 {
    let threads = u8::try_from(threads).unwrap_or(u8::MAX);
    let head = [0x83, 0x00, 0x58, 0x20];
    // Counts up to 23 are their own encoding; there are at most 16 slots.
    let bytes = head.iter().chain(measurement).chain(std::iter::once(&threads));
    let mut length = 0;
    for (place, &byte) in request.iter_mut().zip(bytes) {
        *place = byte;
        length += 1;
    }
    length
}

/// Enters for the first time and checks that the image accepts.
///
/// # Errors
/// The ending, after a first frame that says `launch_refused` with the image's answer in hexadecimal.
pub fn launch(gate: &mut Gate, wire: &mut Wire, measurement: &[u8; 32], threads: usize) -> Result<(), Ending> {
    let length = write_launch(gate.request(), measurement, threads);
    let (code, reply_length) = gate.enter(length)?;
    let reply = usize::try_from(reply_length).ok().and_then(|length| gate.reply().get(..length)).unwrap_or_default();
    let version = u8::try_from(ABI_VERSION).unwrap_or(u8::MAX);
    if code == exit::REPLY && reply == [0x82, 0x00, version] {
        return Ok(());
    }
    // Writing to a String with room left does not fail and takes no memory.
    let mut note = std::mem::take(&mut wire.note);
    let name = Reason::LaunchRefused.name();
    let _ = write!(
        note,
        "{{\"error\":{{\"name\":\"{name}\",\"message\":\"the image answered its launch with code {code} and "
    );
    for byte in reply.iter().take(256) {
        let _ = write!(note, "{byte:02x}");
    }
    let _ = write!(
        note,
        ", expected interface version {ABI_VERSION}: this loader and this image do not belong together\"}}}}"
    );
    wire.send(note.as_bytes())?;
    Err(Ending::Refused)
}

/// Carries messages until one side ends.
pub fn serve(gate: &mut Gate, wire: &mut Wire) -> Ending {
    loop {
        let length = match receive(gate) {
            Ok(Wanted::Message(length)) => length,
            Ok(Wanted::Report) => match report(gate, wire) {
                Ok(()) => continue,
                Err(ending) => return ending,
            },
            Err(ending) => return ending,
        };
        let (code, reply_length) = match gate.enter(length) {
            Ok(answer) => answer,
            Err(ending) => return ending,
        };
        if code != exit::REPLY && code != exit::DEAD {
            return Ending::ImageMisbehaved;
        }
        if let Err(ending) = answer(gate, wire, reply_length) {
            return ending;
        }
        if code == exit::DEAD {
            return Ending::EnclaveDead;
        }
    }
}
