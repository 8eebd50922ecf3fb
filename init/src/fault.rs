//! Why the machine ends: said once on its console, and then it is off.

use std::fmt;
use std::fs::OpenOptions;
use std::io::Write;
use std::time::Duration;

use nix::sys::reboot::{RebootMode, reboot};

/// What failed, for people. Never more than names, numbers and the kernel's own words.
#[derive(Debug)]
pub struct Fault(String);

impl Fault {
    /// `what` failed, and how.
    pub fn new(what: &str, how: impl fmt::Display) -> Self {
        Self(format!("{what}: {how}"))
    }

    /// Says it and ends the machine. If the kernel does not do even that, ending process 1 makes it panic, which ends it too.
    pub fn end(&self) -> ! {
        if let Ok(mut console) = OpenOptions::new().write(true).open("/dev/console") {
            let _ = writeln!(console, "myelin-init: {}", self.0);
            // Gives a slow console the time to print.
            std::thread::sleep(Duration::from_millis(200));
        }
        let _ = reboot(RebootMode::RB_POWER_OFF);
        std::process::exit(1)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}
