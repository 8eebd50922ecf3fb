//! How much stack one message needs. The enclave's stacks are fixed, and X-Wing keeps polynomials on the stack.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::thread::Builder;

use support::World;

/// Measured for a release build on x86-64: 64 KiB are not enough, 80 KiB are. What `World` itself does is counted in.
const STACK_BYTES: usize = 256 * 1024;

#[test]
fn a_whole_run_fits_a_small_stack() {
    let run = || {
        let mut world = World::new();
        world.whole_run(false);
        let mut world = world.reboot(2);
        world.whole_run(true).len()
    };
    let bytes = std::env::var("STACK_BYTES").map_or(STACK_BYTES, |bytes| bytes.parse().unwrap());
    let outputs = Builder::new()
        .stack_size(bytes)
        .spawn(run)
        .unwrap()
        .join()
        .unwrap();
    assert_eq!(outputs, 3);
}
