//! The loader, as on any other machine: a program on two pipes, with the image on a descriptor.

use std::convert::Infallible;
use std::fs::File;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use std::os::fd::AsRawFd;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::fault::Fault;

const PROGRAM: &str = "/loader";
const IMAGE: &str = "/image";
const WHAT: &str = "the loader";
const THREADS_LIMIT: usize = 16;

/// The running loader.
#[derive(Debug)]
pub struct Loader {
    child: Child,
    /// Where its requests go in.
    pub input: ChildStdin,
    /// Where its answers come out.
    pub output: ChildStdout,
}

/// Starts it, with a thread for each processor there is.
pub fn start() -> Result<Loader, Fault> {
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get().min(THREADS_LIMIT));
    let image = File::open(IMAGE).map_err(|error| Fault::new(IMAGE, error))?;
    fcntl(&image, FcntlArg::F_SETFD(FdFlag::empty())).map_err(|error| Fault::new(IMAGE, error))?;
    let mut child = Command::new(PROGRAM)
        .args(["--threads", &threads.to_string(), "--image-fd", &image.as_raw_fd().to_string()])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|error| Fault::new(WHAT, error))?;
    match (child.stdin.take(), child.stdout.take()) {
        (Some(input), Some(output)) => Ok(Loader { child, input, output }),
        _ => Err(Fault::new(WHAT, "has no pipes")),
    }
}

impl Loader {
    /// Why carrying messages ended; where it is the loader's end, how that came.
    pub fn ended(mut self, carried: Result<Infallible, Fault>) -> Fault {
        let fault = match carried {
            Ok(never) => match never {},
            Err(fault) => fault,
        };
        drop(self.input);
        match self.child.try_wait() {
            Ok(Some(status)) => Fault::new(&fault.to_string(), status),
            _ => fault,
        }
    }
}
