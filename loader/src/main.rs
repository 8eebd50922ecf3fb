//! Runs one enclave image in a process that has locked itself down: Myelin's default loader.
//!
//! The order is the point. [`lockdown`] gives up what the process does not need before the first byte of the image is read;
//! [`elf`] refuses everything but the form in `docs/abi.md`; [`mapping`] and [`gate`] set up memory and threads; then the
//! last system-call list closes on all threads, and only then is the image entered, by a call, with [`machine`] in a
//! virtual machine that has no kernel, or with [`sgx`] in an enclave of the processor. The loader holds no secret and nobody
//! trusts it with one: it can stop the enclave or slow it down, and nothing else.

mod arguments;
mod elf;
mod ending;
mod features;
mod gate;
mod lockdown;
mod machine;
mod manifest;
mod mapping;
mod memory;
mod refusal;
mod report;
mod serve;
mod sgx;
mod supervisor;

use std::fs::File;
use std::io::Read;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd};

use myelin_abi::{ABI_VERSION, SHARED_BYTES};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::{ForkResult, fork};
use sha2::{Digest, Sha256};

use arguments::{Arguments, Backend, USAGE};
use ending::Ending;
use gate::{Call, Gate};
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
    let device = match device(&arguments) {
        Ok(device) => device,
        Err(refusal) => end(refuse(&mut wire, &refusal)),
    };
    let (kept, what) = match &device {
        Device::None => (vec![arguments.image_fd], "the image"),
        Device::Kvm(device) => (vec![arguments.image_fd, device.as_raw_fd()], "the image, and /dev/kvm"),
        Device::Sgx(device, _) => (vec![arguments.image_fd, device.as_raw_fd()], "the image, and /dev/sgx_enclave"),
    };
    let layers = match lockdown::before_fork(&kept, what) {
        Ok(layers) => layers,
        Err(refusal) => end(refuse(&mut wire, &refusal)),
    };
    // SAFETY: this process has one thread, so the child's memory is in no state that another thread left half-done.
    match unsafe { fork() } {
        Ok(ForkResult::Parent { child }) => {
            drop(device);
            std::process::exit(supervisor::supervise(child, &[libc::STDIN_FILENO, arguments.image_fd]));
        }
        Ok(ForkResult::Child) => end(hold(arguments, device, layers, &room, &mut wire)),
        Err(error) => {
            let refusal = Refusal::new(Reason::ThreadsMissing, format!("no second process can be started: {error}"));
            end(refuse(&mut wire, &refusal))
        }
    }
}

/// What a backend needs besides the image.
enum Device {
    None,
    Kvm(File),
    Sgx(File, sgx::Signature),
}

/// Opens what the backend needs, while there is still a file system to open it from.
fn device(arguments: &Arguments) -> Result<Device, Refusal> {
    let (device, signature) = match (arguments.backend, arguments.sigstruct_fd) {
        (Backend::Process, _) => return Ok(Device::None),
        (Backend::Sgx, Some(descriptor)) => (sgx::open_device()?, Some(sgx::read_signature(descriptor)?)),
        _ => (machine::open_device()?, None),
    };
    if device.as_raw_fd() == arguments.image_fd {
        return Err(Refusal::new(
            Reason::ImageUnreadable,
            format!("descriptor {} is not open; open the image on it", arguments.image_fd),
        ));
    }
    Ok(match signature {
        None => Device::Kvm(device),
        Some(signature) => Device::Sgx(device, signature),
    })
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
fn hold(arguments: Arguments, device: Device, layers: Vec<Layer>, room: &Room, wire: &mut Wire) -> Ending {
    let Ready { gate, measurement, report } = match prepare(arguments, device, layers, room) {
        Ok(ready) => ready,
        Err(refusal) => return refuse(wire, &refusal),
    };
    // Given back only with the process: a machine's memory and descriptors take calls that the last list does not allow.
    let mut gate = ManuallyDrop::new(gate);
    if let Err(refusal) = lockdown::seal(arguments.backend) {
        return refuse(wire, &refusal);
    }
    let launched = serve::launch(&mut gate, wire, &measurement, arguments.threads);
    match launched.and_then(|()| wire.send(report.as_bytes())) {
        Ok(()) => serve::serve(&mut gate, wire),
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
fn prepare(arguments: Arguments, device: Device, mut layers: Vec<Layer>, room: &Room) -> Result<Ready, Refusal> {
    let Arguments { threads, backend, .. } = arguments;
    layers.push(lockdown::die_with_parent());
    layers.extend(lockdown::after_fork(arguments.image_fd, backend)?);
    let file = read_image(arguments.image_fd)?;
    let measurement: [u8; 32] = Sha256::digest(&file).into();
    let image = elf::parse(&file)?;
    let target = manifest::target(image.manifest)?.to_owned();
    features::check(&target)?;
    memory::check(image.memory_bytes().saturating_add(SHARED_BYTES as u64), room.available.as_ref())?;
    let shared = mapping::map_shared()?;
    if backend != Backend::Sgx {
        layers.extend(mapping::map(&image, &file, room.swap_bytes, backend)?);
    }
    let memory_bytes = image.memory_bytes();
    let gate = match device {
        Device::None => {
            // SAFETY: the line above has mapped this image, for this.
            let entry = unsafe { mapping::entry(&image) };
            // SAFETY: as above; the shared region stays mapped.
            Gate::open(unsafe { Call::slots(entry, shared, threads) }, shared)?
        }
        Device::Kvm(device) => {
            let (processors, layer) = machine::make(device, &image, shared, threads, &target)?;
            layers.push(layer);
            Gate::open(processors, shared)?
        }
        Device::Sgx(device, signature) => {
            let (slots, layer) = sgx::make(device, &image, &file, &signature, shared, threads, &target)?;
            layers.push(layer);
            Gate::open(slots, shared)?
        }
    };
    drop(file);
    layers.push(lockdown::close_errors());
    // Said before it is done, because afterwards no memory can be had to say it; if it fails, this report is never sent.
    layers.push(Layer::applied(
        "seccomp_running",
        match backend {
            Backend::Process | Backend::Sgx => {
                "all threads: read input, write output, futex, yield, end; all else is fatal"
            }
            Backend::Kvm => {
                "all threads: read input, write output, futex, yield, go into the machine, end; all else is fatal"
            }
        },
    ));
    let report = Report { measurement, layers, memory_bytes, threads, backend, target, abi: ABI_VERSION }.json();
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
