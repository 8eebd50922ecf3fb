//! What the process gives up before it reads a byte that it does not trust, the image's included.
//!
//! [`before_fork`] runs in the first process while it has one thread, [`after_fork`] in the one that will hold the image,
//! and [`seal`] last, when everything is mapped and every thread is there. No new privileges and seccomp must hold, or the
//! loader refuses to go on; the other layers depend on the system and are reported.

mod namespaces;
mod process;
mod ruleset;
mod seccomp;

pub use process::{close_errors, die_with_parent};
pub use seccomp::{restrict_supervisor, seal};

use crate::arguments::Backend;
use crate::refusal::Refusal;
use crate::report::Layer;

/// Gives up identity, environment, descriptors but those `kept`, named by `what`, and namespaces. The process must have
/// one thread.
///
/// # Errors
/// `not_sealed` if new privileges cannot be ruled out.
pub fn before_fork(kept: &[i32], what: &str) -> Result<Vec<Layer>, Refusal> {
    let mut layers = Vec::new();
    process::one_heap();
    process::raise_locked_memory_limit();
    layers.push(process::no_new_privileges()?);
    layers.push(process::close_other_descriptors(kept, what));
    layers.push(process::wipe_environment());
    layers.push(process::no_core());
    layers.push(process::leave_root());
    layers.extend(namespaces::leave());
    // For the supervisor; a change of identity undoes it, so the child says it again, and reports it.
    process::not_dumpable();
    Ok(layers)
}

/// Gives up the file system, capabilities and every system call that mapping an image and starting threads does not need.
///
/// # Errors
/// `not_sealed` if seccomp cannot be applied.
pub fn after_fork(image_fd: i32, backend: Backend) -> Result<Vec<Layer>, Refusal> {
    Ok(vec![
        namespaces::empty_root(),
        process::no_capabilities(),
        process::not_dumpable(),
        process::no_clock(),
        ruleset::deny_all(),
        seccomp::restrict_to_loading(image_fd, backend)?,
    ])
}
