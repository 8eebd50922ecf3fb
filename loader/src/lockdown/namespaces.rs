//! Own namespaces, where the system allows them, and an empty root directory.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{chdir, pivot_root};

use crate::report::Layer;

/// The kinds, the user namespace first: it is what lets an ordinary user have the others.
const KINDS: [(&str, CloneFlags); 7] = [
    ("user_namespace", CloneFlags::CLONE_NEWUSER),
    ("mount_namespace", CloneFlags::CLONE_NEWNS),
    ("network_namespace", CloneFlags::CLONE_NEWNET),
    ("pid_namespace", CloneFlags::CLONE_NEWPID),
    ("ipc_namespace", CloneFlags::CLONE_NEWIPC),
    ("uts_namespace", CloneFlags::CLONE_NEWUTS),
    ("cgroup_namespace", CloneFlags::CLONE_NEWCGROUP),
];

/// Moves this process, and for processes what it forks next, into namespaces of their own.
pub fn leave() -> Vec<Layer> {
    KINDS.iter().map(|&(name, flag)| Layer::of(name, "own", unshare(flag))).collect()
}

/// Makes an empty, read-only file system the root of this mount namespace. There is nothing to open, even by name.
pub fn empty_root() -> Layer {
    let none: Option<&str> = None;
    let locked = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
    let done = mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        // Any directory that every system has will do: it is covered only in this namespace.
        .and_then(|()| mount(Some("none"), "/proc", Some("tmpfs"), locked, Some("size=4k,mode=0555")))
        .and_then(|()| chdir("/proc"))
        // The new root covers the old one at the same place, which is then taken away.
        .and_then(|()| pivot_root(".", "."))
        .and_then(|()| umount2(".", MntFlags::MNT_DETACH))
        .and_then(|()| chdir("/"));
    Layer::of("empty_root", "nothing to open", done)
}
