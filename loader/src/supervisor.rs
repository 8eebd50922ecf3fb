//! The process outside: waits for the one that holds the image, says how it ended, and ends the same way.
//!
//! It is there because a process namespace begins with a child, and because somebody must notice that the host is gone while
//! the image is computing: then nobody reads the output any more.

use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, Signal, kill, raise, signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::ending::Ending;
use crate::lockdown::restrict_supervisor;

/// What a signal means here.
fn meaning(signal: Signal) -> &'static str {
    match signal {
        Signal::SIGSYS => "a forbidden system call",
        Signal::SIGSEGV => "an access that its memory does not allow, or reading the clock",
        Signal::SIGBUS => "memory that could not be had",
        Signal::SIGILL => "an instruction that this processor does not have",
        Signal::SIGFPE => "an arithmetic fault",
        Signal::SIGKILL => "killed from outside, or out of memory",
        _ => "a signal",
    }
}

/// A descriptor that becomes readable when the process ends.
fn watch(child: Pid) -> nix::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, child.as_raw(), 0) };
    let descriptor = i32::try_from(Errno::result(result)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just given this descriptor to this process, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Waits until the child has ended, or kills it when nobody reads its output any more.
fn wait(child: Pid) -> nix::Result<WaitStatus> {
    let ended = watch(child)?;
    // SAFETY: standard output is open for the life of the process.
    let output = unsafe { BorrowedFd::borrow_raw(libc::STDOUT_FILENO) };
    loop {
        // No event is asked of the output: that its other end is gone is reported all the same.
        let mut watched = [PollFd::new(ended.as_fd(), PollFlags::POLLIN), PollFd::new(output, PollFlags::empty())];
        match poll(&mut watched, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error),
        }
        let [child_state, output_state] = watched.map(|entry| entry.revents().unwrap_or(PollFlags::empty()));
        if output_state.intersects(PollFlags::POLLERR) && child_state.is_empty() {
            kill(child, Signal::SIGKILL)?;
        }
        if !child_state.is_empty() || output_state.intersects(PollFlags::POLLERR) {
            return waitpid(child, None);
        }
    }
}

/// Runs the supervisor, which needs none of `descriptors`, to its end. Returns the exit code, unless the child was ended by a signal: then so is this process.
pub fn supervise(child: Pid, descriptors: &[i32]) -> i32 {
    for &descriptor in descriptors {
        // The child has its own; one held here would keep a pipe open. A failure leaves nothing to do.
        let _ = nix::unistd::close(descriptor);
    }
    if let Err(refusal) = restrict_supervisor() {
        eprintln!("myelin-loader: {refusal}");
        let _ = kill(child, Signal::SIGKILL);
        return Ending::Refused.code();
    }
    match wait(child) {
        Ok(WaitStatus::Exited(_, code)) => {
            if let Some(message) = Ending::of(code).and_then(Ending::message) {
                eprintln!("myelin-loader: {message}");
            }
            code
        }
        Ok(WaitStatus::Signaled(_, ended_by, _)) => {
            eprintln!("myelin-loader: the enclave was stopped by {ended_by}: {}", meaning(ended_by));
            // SAFETY: the default action replaces whatever the runtime library had installed; no handler of ours runs.
            let _ = unsafe { signal(ended_by, SigHandler::SigDfl) };
            let _ = raise(ended_by);
            128 + ended_by as i32
        }
        Ok(_) | Err(_) => {
            eprintln!("myelin-loader: the process that holds the image cannot be waited for");
            let _ = kill(child, Signal::SIGKILL);
            Ending::Refused.code()
        }
    }
}
