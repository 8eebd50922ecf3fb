//! What the kernel offers, made ready and then closed.

use std::fs::{self, File};
use std::path::Path;

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::unistd::{chdir, chroot};

use crate::fault::Fault;

/// Kernel modules, in the order of their names.
const MODULES: &str = "/modules";

/// File systems of the kernel's, and where they go.
const MOUNTS: [(&str, &str); 4] =
    [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("securityfs", "/sys/kernel/security")];

/// Settings after which nothing can be added to the kernel, and nothing asks it by a key or a signal on the console.
const SETTINGS: [(&str, &str); 5] = [
    ("/proc/sys/kernel/sysrq", "0"),
    ("/proc/sys/debug/exception-trace", "0"),
    ("/proc/sys/kernel/core_pattern", ""),
    ("/proc/sys/kernel/kexec_load_disabled", "1"),
    ("/proc/sys/kernel/modules_disabled", "1"),
];

fn attach(kind: &str, place: &str) -> Result<(), Fault> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some(kind), place, Some(kind), flags, None::<&str>).map_err(|error| Fault::new(place, error))
}

/// Makes the initrd a mount of its own. The kernel's first root cannot be exchanged for another, which the loader does to
/// take the file system from the image.
fn leave_first_root() -> nix::Result<()> {
    let nothing = None::<&str>;
    mount(Some("/"), "/root", nothing, MsFlags::MS_BIND, nothing)?;
    chdir("/root")?;
    mount(Some("."), "/", nothing, MsFlags::MS_MOVE, nothing)?;
    chroot(".")?;
    chdir("/")
}

/// Mounts the kernel's file systems. The initrd has a folder for each that is not inside of another.
pub fn mount_all() -> Result<(), Fault> {
    leave_first_root().map_err(|error| Fault::new("/", error))?;
    MOUNTS.iter().try_for_each(|(kind, place)| attach(kind, place))
}

/// Loads every module of the initrd. One whose hardware is not here is passed over; any other failure ends the machine.
pub fn load_modules() -> Result<(), Fault> {
    let folder = fs::read_dir(MODULES).map_err(|error| Fault::new(MODULES, error))?;
    let mut paths = folder
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Fault::new(MODULES, error))?;
    paths.sort();
    for path in paths {
        let what = path.to_string_lossy();
        let file = File::open(&path).map_err(|error| Fault::new(&what, error))?;
        match finit_module(&file, c"", ModuleInitFlags::empty()) {
            Ok(()) | Err(Errno::ENODEV) => {}
            Err(error) => return Err(Fault::new(&what, error)),
        }
    }
    if Path::new("/sys/kernel/config").is_dir() {
        attach("configfs", "/sys/kernel/config")?;
    }
    Ok(())
}

/// Closes what modules and the console could still be used for.
pub fn close() -> Result<(), Fault> {
    SETTINGS.iter().try_for_each(|(setting, value)| {
        let written = fs::write(setting, format!("{value}\n"));
        written.map_err(|error| Fault::new(setting, error))
    })
}
