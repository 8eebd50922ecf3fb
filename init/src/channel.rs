//! The one way in and out: a port of a virtual serial device, by its name, or a socket to the hypervisor.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, VsockAddr, connect, socket};

use crate::fault::Fault;

const WHAT: &str = "the channel to the host";
const PORTS: &str = "/sys/class/virtio-ports";
/// Name of the serial port.
const NAME: &str = "myelin";
/// Port of the socket.
const PORT: u32 = 0x4d59;
/// Whom a Nitro enclave tells that it has started, and how: the machine that it belongs to ends it otherwise.
const HEARTBEAT: (u32, u32, u8) = (3, 9000, 0xB7);
/// Who may be at the other end of the socket: a hypervisor's host, or the machine that an enclave of AWS belongs to.
const PEERS: [u32; 2] = [2, 3];
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);

/// Finds the channel, and waits until the host is at its other end.
pub fn find() -> Result<File, Fault> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(path) = port() {
            let file = OpenOptions::new().read(true).write(true).open(path).map_err(|error| Fault::new(WHAT, error))?;
            return attended(file, deadline);
        }
        if let Some(file) = PEERS.iter().find_map(|&peer| dial(peer, PORT)) {
            return Ok(file);
        }
        std::thread::sleep(PAUSE);
    }
    Err(Fault::new(WHAT, format!("no serial port named {NAME} and nobody listens on socket {PORT}")))
}

/// The device of the port that has our name.
fn port() -> Option<PathBuf> {
    fs::read_dir(PORTS).ok()?.flatten().find_map(|entry| {
        let name = fs::read_to_string(entry.path().join("name")).ok()?;
        let device = PathBuf::from("/dev").join(entry.file_name());
        (name.trim_ascii() == NAME && device.exists()).then_some(device)
    })
}

/// The port, once the host has opened its side: before that, reading it is as if it had ended.
fn attended(file: File, deadline: Instant) -> Result<File, Fault> {
    while Instant::now() < deadline {
        let mut watched = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
        poll(&mut watched, PollTimeout::ZERO).map_err(|error| Fault::new(WHAT, error))?;
        let is_away = watched.iter().any(|port| has(port, PollFlags::POLLHUP));
        if !is_away {
            return Ok(file);
        }
        std::thread::sleep(PAUSE);
    }
    Err(Fault::new(WHAT, "the host does not open its side"))
}

fn has(port: &PollFd<'_>, flag: PollFlags) -> bool {
    port.revents().is_some_and(|events| events.contains(flag))
}

/// Tells the machine that a Nitro enclave belongs to that this one has started.
///
/// AWS's tools wait for this byte, and send it back.
pub fn report_start() -> Result<(), Fault> {
    let (peer, port, byte) = HEARTBEAT;
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(mut file) = dial(peer, port) {
            let mut echo = [0];
            let said = file.write_all(&[byte]).and_then(|()| file.read_exact(&mut echo));
            return said.map_err(|error| Fault::new(WHAT, error));
        }
        std::thread::sleep(PAUSE);
    }
    Err(Fault::new(WHAT, "nobody waits for an enclave's start"))
}

fn dial(peer: u32, port: u32) -> Option<File> {
    let end = socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).ok()?;
    connect(end.as_raw_fd(), &VsockAddr::new(peer, port)).ok()?;
    Some(File::from(end))
}
