//! Runs one enclave image in a process that has locked itself down: Myelin's default loader.
//!
//! The order is the point. [`lockdown`] gives up what the process does not need before the first byte of the image is read;
//! [`elf`] refuses everything but the form in `docs/abi.md`; [`mapping`] and [`gate`] set up memory and threads; then the
//! last system-call list closes on all threads, and only then is the image entered. The loader holds no secret and nobody
//! trusts it with one: it can stop the enclave or slow it down, and nothing else.

mod arguments;
mod elf;
mod ending;
mod features;
mod gate;
mod lockdown;
mod manifest;
mod mapping;
mod memory;
mod refusal;
mod report;
mod serve;
mod supervisor;

use std::fs::File;
use std::io::Read;
use std::os::fd::FromRawFd;

use myelin_abi::{ABI_VERSION, SHARED_BYTES};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::{ForkResult, fork};
use sha2::{Digest, Sha256};

use arguments::{Arguments, USAGE};
use ending::Ending;
use gate::Gate;
use refusal::{Reason, Refusal};
use report::{Layer, Report};
use serve::Wire;

/// Most bytes of an image file. Weights are in it, so it is generous.
const IMAGE_BYTES_LIMIT: u64 = 1 << 30;

/// What the system says of its memory, asked while there is still a file system to ask.
struct Room {
    available: Option<memory::Available>,
    swap_bytes: Option<u64>,
}

fn main() {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(message) => {
            eprintln!("myelin-loader: {message}\n{USAGE}");
            std::process::exit(Ending::Usage.code());
        }
    };
    for fault in [Signal::SIGSEGV, Signal::SIGBUS] {
        // SAFETY: the default action replaces the runtime library's handlers, so that a fault in the image ends the process
        // under its own name; no handler of ours runs.
        let _ = unsafe { signal(fault, SigHandler::SigDfl) };
    }
    let room = Room { available: memory::available(), swap_bytes: memory::swap_bytes() };
    let mut wire = Wire::new();
    let layers = match lockdown::before_fork(arguments.image_fd) {
        Ok(layers) => layers,
        Err(refusal) => end(refuse(&mut wire, &refusal)),
    };
    // SAFETY: this process has one thread, so the child's memory is in no state that another thread left half-done.
    match unsafe { fork() } {
        Ok(ForkResult::Parent { child }) => {
            std::process::exit(supervisor::supervise(child, libc::STDIN_FILENO, arguments.image_fd));
        }
        Ok(ForkResult::Child) => end(hold(arguments, layers, &room, &mut wire)),
        Err(error) => {
            let refusal = Refusal::new(Reason::ThreadsMissing, format!("no second process can be started: {error}"));
            end(refuse(&mut wire, &refusal))
        }
    }
}

/// Ends the process at once, all threads, nothing run at exit: the last list allows no more.
fn end(ending: Ending) -> ! {
    // SAFETY: _exit ends the process; there is nothing to flush and nobody to tell.
    unsafe { libc::_exit(ending.code()) }
}

/// Sends the refusal as the first frame.
fn refuse(wire: &mut Wire, refusal: &Refusal) -> Ending {
    match wire.send(report::refusal_json(refusal).as_bytes()) {
        Ok(()) => Ending::Refused,
        Err(ending) => ending,
    }
}

/// Life of the process that holds the image.
fn hold(arguments: Arguments, layers: Vec<Layer>, room: &Room, wire: &mut Wire) -> Ending {
    let mut ready = match prepare(arguments, layers, room) {
        Ok(ready) => ready,
        Err(refusal) => return refuse(wire, &refusal),
    };
    if let Err(refusal) = lockdown::seal() {
        return refuse(wire, &refusal);
    }
    let launched = serve::launch(&mut ready.gate, wire, &ready.measurement, arguments.threads);
    match launched.and_then(|()| wire.send(ready.report.as_bytes())) {
        Ok(()) => serve::serve(&mut ready.gate, wire),
        Err(ending) => ending,
    }
}

/// An image that only waits for the last list to close.
struct Ready {
    gate: Gate,
    measurement: [u8; 32],
    report: String,
}

/// Locks down, then reads, measures, checks and maps the image and starts the threads.
fn prepare(arguments: Arguments, mut layers: Vec<Layer>, room: &Room) -> Result<Ready, Refusal> {
    layers.push(lockdown::die_with_parent());
    layers.extend(lockdown::after_fork(arguments.image_fd)?);
    let file = read_image(arguments.image_fd)?;
    let measurement: [u8; 32] = Sha256::digest(&file).into();
    let image = elf::parse(&file)?;
    let target = manifest::target(image.manifest)?.to_owned();
    features::check(&target)?;
    memory::check(image.memory_bytes().saturating_add(SHARED_BYTES as u64), room.available.as_ref())?;
    let shared = mapping::map_shared()?;
    layers.extend(mapping::map(&image, &file, room.swap_bytes)?);
    // SAFETY: the line above has mapped this image.
    let entry = unsafe { mapping::entry(&image) };
    let memory_bytes = image.memory_bytes();
    drop(file);
    let gate = Gate::open(entry, shared, arguments.threads)?;
    layers.push(lockdown::close_errors());
    // Said before it is done, because afterwards no memory can be had to say it; if it fails, this report is never sent.
    layers.push(Layer::applied(
        "seccomp_running",
        "all threads: read input, write output, futex, yield, end; all else is fatal",
    ));
    let report =
        Report { measurement, layers, memory_bytes, threads: arguments.threads, target, abi: ABI_VERSION }.json();
    Ok(Ready { gate, measurement, report })
}

/// Reads the whole image into memory of its own: what is measured is what is mapped, whatever happens to the file.
fn read_image(descriptor: i32) -> Result<Vec<u8>, Refusal> {
    // SAFETY: the descriptor was given to this process for this purpose, and nothing else in it owns it.
    let file = unsafe { File::from_raw_fd(descriptor) };
    let mut bytes = Vec::new();
    let read = Read::take(&file, IMAGE_BYTES_LIMIT + 1).read_to_end(&mut bytes);
    read.map_err(|error| Refusal::new(Reason::ImageUnreadable, format!("descriptor {descriptor}: {error}")))?;
    if bytes.len() as u64 > IMAGE_BYTES_LIMIT {
        return Err(Refusal::new(
            Reason::ImageTooLarge,
            format!("the image file is longer than {IMAGE_BYTES_LIMIT} bytes"),
        ));
    }
    Ok(bytes)
}
