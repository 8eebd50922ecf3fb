//! Process 1 of a virtual machine that runs one enclave image.
//!
//! ```text
//! host ── channel ── relay ── pipes ── loader ── image
//!                      │
//!                      └── source: what the machine's hardware (or its TPM) signs
//! ```
//!
//! The order: mount what the kernel offers, load the modules that the initrd carries and no more, close what is not needed,
//! find a source of evidence and the channel, start the loader, carry messages. There is no shell, no network, no input but
//! the channel, and no second chance: whatever fails ends the machine. All of it lies in the initrd, and so is measured.
//!
//! What evidence is made for, the image alone says: the host's bytes reach the image and nothing else.

mod cbor;
mod channel;
mod fault;
mod frame;
mod loader;
mod nsm;
mod relay;
mod source;
mod system;
mod tpm;
mod tsm;

use std::convert::Infallible;

use fault::Fault;

fn main() {
    let ended = match live() {
        Ok(never) => match never {},
        Err(fault) => fault,
    };
    ended.end()
}

/// From the first mount to the end of the machine.
fn live() -> Result<Infallible, Fault> {
    system::mount_all()?;
    system::load_modules()?;
    system::close()?;
    let mut source = source::find()?;
    if nsm::is_here() {
        channel::report_start()?;
    }
    let mut channel = channel::find()?;
    let mut loader = loader::start()?;
    let ended = relay::carry(&mut channel, &mut loader.output, &mut loader.input, source.as_mut());
    Err(loader.ended(ended))
}
