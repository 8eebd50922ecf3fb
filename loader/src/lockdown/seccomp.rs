//! The system-call allow-lists. Whatever is not listed ends the process with SIGSYS.
//!
//! Three lists: the supervisor's; the one under which an image is read, checked and mapped and threads are started; and the
//! last one, on all threads, under which the image runs. Filters stack: the last list is within the second.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter, apply_filter_all_threads,
};

use crate::arguments::Backend;
use crate::machine::requests;
use crate::refusal::{Reason, Refusal};
use crate::report::Layer;
use crate::sgx::structures;

/// System call to the alternatives under which it is allowed; an empty list allows it always.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// The part of a futex operation that is neither "private" nor "real-time clock".
const FUTEX_COMMAND_MASK: u64 = !((libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME) as u64);
/// Flags of `clone` that a new thread must have, all of them.
const THREAD_FLAGS: u64 = (libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND) as u64;

/// Argument `index`, under `mask`, equals `value`.
fn argument(index: u8, mask: u64, value: u64) -> Result<SeccompRule, Error> {
    let condition = SeccompCondition::new(index, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), value)?;
    Ok(SeccompRule::new(vec![condition])?)
}

/// Argument `index` is one of `values`.
fn one_of(index: u8, values: &[i32]) -> Result<Vec<SeccompRule>, Error> {
    values.iter().map(|&value| argument(index, u64::from(u32::MAX), u64::from(value.cast_unsigned()))).collect()
}

/// The futex operations that parking, barriers and thread start need.
fn futex() -> Result<Vec<SeccompRule>, Error> {
    let mask = FUTEX_COMMAND_MASK & u64::from(u32::MAX);
    [libc::FUTEX_WAIT, libc::FUTEX_WAKE, libc::FUTEX_WAIT_BITSET]
        .into_iter()
        .map(|command| argument(1, mask, u64::from(command.cast_unsigned())))
        .collect()
}

/// Requests to descriptors, by number: only those of the virtual machine take any of these.
fn requests_of(numbers: &[u32]) -> Result<Vec<SeccompRule>, Error> {
    numbers.iter().map(|&number| argument(1, u64::from(u32::MAX), u64::from(number))).collect()
}

/// Under which the image runs: messages in, messages out, sleep and wake, end; with a virtual machine, going into it.
fn running(backend: Backend) -> Result<Rules, Error> {
    let mut rules = BTreeMap::from([
        (libc::SYS_read, one_of(0, &[libc::STDIN_FILENO])?),
        (libc::SYS_write, one_of(0, &[libc::STDOUT_FILENO])?),
        (libc::SYS_futex, futex()?),
        (libc::SYS_sched_yield, vec![]),
        (libc::SYS_rt_sigreturn, vec![]),
        (libc::SYS_exit_group, vec![]),
    ]);
    if backend == Backend::Kvm {
        rules.insert(libc::SYS_ioctl, requests_of(&requests::RUNNING)?);
    }
    Ok(rules)
}

/// Under which the image is read, checked and mapped and threads are started: adds memory that is never writable and
/// executable at once, threads (not processes), and closing.
fn loading(image_fd: i32, backend: Backend) -> Result<Rules, Error> {
    let mut rules = running(backend)?;
    let (write, execute) = (libc::PROT_WRITE as u64, libc::PROT_EXEC as u64);
    let exclusive = || Ok::<_, Error>(vec![argument(2, write, 0)?, argument(2, execute, 0)?]);
    rules.insert(libc::SYS_read, one_of(0, &[libc::STDIN_FILENO, image_fd])?);
    rules.insert(libc::SYS_write, one_of(0, &[libc::STDOUT_FILENO, libc::STDERR_FILENO])?);
    rules.insert(libc::SYS_mmap, exclusive()?);
    rules.insert(libc::SYS_mprotect, exclusive()?);
    rules.insert(libc::SYS_clone, vec![argument(0, THREAD_FLAGS, THREAD_FLAGS)?]);
    rules.insert(libc::SYS_prctl, one_of(0, &[libc::PR_SET_NAME, libc::PR_SET_NO_NEW_PRIVS, libc::PR_SET_VMA])?);
    match backend {
        Backend::Process => {}
        Backend::Kvm => {
            let all: Vec<u32> = requests::RUNNING.into_iter().chain(requests::MAKING).collect();
            rules.insert(libc::SYS_ioctl, requests_of(&all)?);
        }
        // Going into an enclave is no system call, so the list under which it runs has nothing more.
        Backend::Sgx => {
            rules.insert(libc::SYS_ioctl, requests_of(&structures::REQUESTS)?);
        }
    }
    for call in [
        libc::SYS_brk,
        libc::SYS_clone3,
        libc::SYS_close,
        libc::SYS_exit,
        libc::SYS_fstat,
        libc::SYS_getpid,
        libc::SYS_getrandom,
        libc::SYS_gettid,
        libc::SYS_madvise,
        libc::SYS_mlock2,
        libc::SYS_mremap,
        libc::SYS_munmap,
        libc::SYS_rseq,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_sched_getaffinity,
        libc::SYS_seccomp,
        libc::SYS_set_robust_list,
        libc::SYS_sigaltstack,
    ] {
        rules.insert(call, vec![]);
    }
    Ok(rules)
}

/// What waiting for the other process, naming its end and ending the same way need.
fn supervising() -> Rules {
    let calls = [
        libc::SYS_brk,
        libc::SYS_close,
        libc::SYS_exit_group,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_kill,
        libc::SYS_madvise,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_pidfd_open,
        libc::SYS_poll,
        libc::SYS_ppoll,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        libc::SYS_tgkill,
        libc::SYS_wait4,
        libc::SYS_write,
    ];
    calls.into_iter().map(|call| (call, vec![])).collect()
}

fn compiled(rules: Rules, listed: SeccompAction, other: SeccompAction) -> Result<BpfProgram, Error> {
    let filter = SeccompFilter::new(rules, other, listed, TargetArch::x86_64)?;
    Ok(BpfProgram::try_from(filter)?)
}

fn allow_only(rules: Rules) -> Result<BpfProgram, Error> {
    compiled(rules, SeccompAction::Allow, SeccompAction::KillProcess)
}

fn refused(stage: &str, error: &Error) -> Refusal {
    Refusal::new(
        Reason::NotSealed,
        format!(
            "seccomp cannot be applied while {stage}: {error}. The kernel must have CONFIG_SECCOMP_FILTER, and a container must allow it"
        ),
    )
}

/// Allows the supervisor what it needs and no more.
///
/// # Errors
/// `not_sealed` if the kernel takes no filter.
pub fn restrict_supervisor() -> Result<(), Refusal> {
    let apply = || apply_filter(&allow_only(supervising())?);
    apply().map_err(|error| refused("supervising", &error))
}

/// First list of the process that holds the image. `image_fd` is what it may read besides messages.
pub fn restrict_to_loading(image_fd: i32, backend: Backend) -> Result<Layer, Refusal> {
    let apply = || {
        // The flags of clone3 lie in memory, where no filter sees them: the C library falls back to clone.
        let no_clone3 = BTreeMap::from([(libc::SYS_clone3, vec![])]);
        let answer = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
        apply_filter(&compiled(no_clone3, answer, SeccompAction::Allow)?)?;
        apply_filter(&allow_only(loading(image_fd, backend)?)?)
    };
    apply().map_err(|error| refused("loading", &error))?;
    Ok(Layer::applied("seccomp_loading", "reading, checking, mapping and starting threads; all else is fatal"))
}

/// Last list, on all threads. From here on only `read` on input, `write` on output, `futex`, `sched_yield`,
/// `rt_sigreturn` and `exit_group` exist, and with a virtual machine those requests that go into it.
///
/// # Errors
/// `not_sealed` if the kernel takes no filter or a thread cannot be brought under it.
pub fn seal(backend: Backend) -> Result<(), Refusal> {
    let apply = || apply_filter_all_threads(&allow_only(running(backend)?)?);
    apply().map_err(|error| refused("sealing", &error))
}
