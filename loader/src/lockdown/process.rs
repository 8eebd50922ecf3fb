//! What one process can give up by itself: privileges, identity, descriptors, environment, dumps, the time-stamp counter.

use nix::sys::prctl;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid};

use crate::refusal::{Reason, Refusal};
use crate::report::Layer;

/// User and group without rights, by convention.
const NOBODY: u32 = 65_534;

unsafe extern "C" {
    /// The C library's pointer to the environment's strings.
    static mut environ: *mut *mut libc::c_char;
}

/// Rules out that an `execve` could ever gain privileges. Seccomp needs it.
pub fn no_new_privileges() -> Result<Layer, Refusal> {
    let done = prctl::set_no_new_privs().and_then(|()| prctl::get_no_new_privs());
    match done {
        Ok(true) => Ok(Layer::applied("no_new_privs", "set")),
        Ok(false) => Err(Refusal::new(Reason::NotSealed, "no_new_privs was set and does not hold")),
        Err(error) => Err(Refusal::new(Reason::NotSealed, format!("no_new_privs cannot be set: {error}"))),
    }
}

/// No core file, whatever happens: memory holds secrets.
pub fn no_core() -> Layer {
    Layer::of("no_core", "limit 0 bytes", setrlimit(Resource::RLIMIT_CORE, 0, 0))
}

/// Neither a core dump nor another process of the same user may read this one's memory.
pub fn not_dumpable() -> Layer {
    Layer::of("not_dumpable", "no dump, no attaching by the same user", prctl::set_dumpable(false))
}

/// This process is killed when the thread that forked it ends.
pub fn die_with_parent() -> Layer {
    Layer::of("dies_with_parent", "SIGKILL when the supervisor ends", prctl::set_pdeathsig(Signal::SIGKILL))
}

/// Lets as much memory be locked as the caller's limits allow; without root that is the hard limit.
pub fn raise_locked_memory_limit() {
    let resource = Resource::RLIMIT_MEMLOCK;
    if setrlimit(resource, RLIM_INFINITY, RLIM_INFINITY).is_err()
        && let Ok((_, hard)) = getrlimit(resource)
    {
        // What cannot be raised is reported when the memory is locked.
        let _ = setrlimit(resource, hard, hard);
    }
}

/// Closes everything but standard input, output, error and `kept`, which are named by `what`.
pub fn close_other_descriptors(kept: &[i32], what: &str) -> Layer {
    let close = |first: u32, last: u32| -> nix::Result<()> {
        if first > last {
            return Ok(());
        }
        // SAFETY: close_range takes three integers. Nothing in this process owns a descriptor in the range: what it has
        // opened is in `kept`.
        let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        nix::errno::Errno::result(result).map(drop)
    };
    let mut kept: Vec<u32> = kept.iter().filter_map(|&descriptor| u32::try_from(descriptor).ok()).collect();
    kept.sort_unstable();
    let (mut first, mut done) = (3, Ok(()));
    for descriptor in kept {
        done = done.and_then(|()| close(first, descriptor.saturating_sub(1)));
        first = descriptor.saturating_add(1);
    }
    Layer::of("descriptors", &format!("only messages, errors and {what}"), done.and_then(|()| close(first, u32::MAX)))
}

/// Closes standard error, which the last list does not allow to be written: only messages stay open.
pub fn close_errors() -> Layer {
    Layer::of("errors_closed", "only messages stay open", nix::unistd::close(libc::STDERR_FILENO))
}

/// Overwrites the environment where the kernel put it, so that neither the image nor `/proc` can read it.
pub fn wipe_environment() -> Layer {
    // SAFETY: one thread runs, nobody else reads or changes the environment, and every entry is a string that ends with a
    // zero byte in memory that belongs to this process and is writable (the initial stack, or the C library's heap).
    unsafe {
        let mut entry = environ;
        while !entry.is_null() && !(*entry).is_null() {
            let text = *entry;
            libc::memset(text.cast(), 0, libc::strlen(text));
            *entry = std::ptr::null_mut();
            entry = entry.add(1);
        }
        environ = std::ptr::null_mut();
    }
    Layer::applied("environment", "wiped")
}

/// Root becomes nobody: whatever else fails, files of root are out of reach.
pub fn leave_root() -> Layer {
    if !geteuid().is_root() {
        return Layer::applied("not_root", format!("user {}", geteuid()));
    }
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    let done = setgroups(&[]).and_then(|()| setresgid(group, group, group)).and_then(|()| setresuid(user, user, user));
    Layer::of("not_root", "root became user 65534", done)
}

/// One heap for all threads. The C library would give each its own, and ask the file system how many processors there are.
pub fn one_heap() {
    // SAFETY: mallopt takes two integers; this process has one thread. If it is refused, the kernel stops what follows.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Drops the capabilities that a new user namespace brings.
pub fn no_capabilities() -> Layer {
    /// Version 3 of the kernel's interface: two words of each set.
    #[repr(C)]
    struct Header {
        version: u32,
        process: i32,
    }
    let header = Header { version: 0x2008_0522, process: 0 };
    let none = [[0u32; 3]; 2];
    // SAFETY: capset reads a header and, for version 3, two rows of three words; both outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) };
    Layer::of("no_capabilities", "all dropped", nix::errno::Errno::result(result).map(drop))
}

/// Makes `rdtsc` fault: an image has no clock. Threads started later inherit it.
pub fn no_clock() -> Layer {
    // SAFETY: PR_SET_TSC takes one integer and changes only whether the instruction faults.
    let result = unsafe { libc::prctl(libc::PR_SET_TSC, libc::PR_TSC_SIGSEGV, 0, 0, 0) };
    Layer::of("no_clock", "reading the time-stamp counter is fatal", nix::errno::Errno::result(result).map(drop))
}
