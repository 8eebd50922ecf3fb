//! The protocol's state machine, `docs/protocol.md` section 6, and the one gate through which results leave.
//!
//! ```text
//! starting ─launch→ launched ─contract→ bound ─grants→ admitted ─receipts, data→ ready ─train→ training → trained ─release→ released
//!     any state ─fatal error→ dead
//! ```
//!
//! Every message is hostile. It is read whole, then checked, then carried out; an error leaves the state as it was, unless
//! it is fatal, and then everything is wiped.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod admission;
mod agreement;
mod boot;
mod deposits;
mod job;
mod loading;
mod release;

pub use job::Job;
