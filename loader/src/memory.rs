//! How much memory there is to have: asked before anything is given up, compared before anything is mapped.

use std::fs::read_to_string;
use std::path::{Path, PathBuf};

use crate::refusal::{Reason, Refusal};

/// Bytes that can be had, and what sets that limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Available {
    /// Bytes.
    pub bytes: u64,
    /// What limits it, for people.
    pub limit: &'static str,
}

/// The value of a `Name:   123 kB` or `name 123` line, in the file's own unit.
fn value(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next()? == name).then(|| words.next()?.parse().ok())?
    })
}

fn number(path: &Path) -> Option<u64> {
    read_to_string(path).ok()?.trim().parse().ok()
}

/// Room under one group's limit: what is not charged yet, and what the kernel can drop.
fn room(folder: &Path, limit: &str, used: &str, droppable: [&str; 2]) -> Option<u64> {
    let (limit, used) = (number(&folder.join(limit))?, number(&folder.join(used))?);
    let statistics = read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let dropped: u64 = droppable.iter().filter_map(|name| value(&statistics, name)).sum();
    Some(limit.saturating_sub(used.saturating_sub(dropped)))
}

/// Least room in the control groups that this process is in, of either version.
fn control_groups() -> Option<u64> {
    let membership = read_to_string("/proc/self/cgroup").ok()?;
    let mut least = None;
    for line in membership.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (mount, limit, used, droppable) = if controllers.is_empty() {
            ("/sys/fs/cgroup", "memory.max", "memory.current", ["inactive_file", "active_file"])
        } else if controllers.split(',').any(|name| name == "memory") {
            let names = ["total_inactive_file", "total_active_file"];
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", names)
        } else {
            continue;
        };
        let mut folder = PathBuf::from(mount).join(path.trim_start_matches('/'));
        while folder.starts_with(mount) {
            let here = room(&folder, limit, used, droppable);
            least = [least, here].into_iter().flatten().min();
            folder.pop();
        }
    }
    least
}

/// Bytes of swap space that the machine has. `None` where it does not say.
pub fn swap_bytes() -> Option<u64> {
    value(&read_to_string("/proc/meminfo").ok()?, "SwapTotal:").map(|kib| kib.saturating_mul(1024))
}

/// Asks the system. `None` where it does not say: then the mapping itself is what fails.
pub fn available() -> Option<Available> {
    let machine = read_to_string("/proc/meminfo").ok().and_then(|text| value(&text, "MemAvailable:"));
    let machine = machine.map(|kib| Available { bytes: kib.saturating_mul(1024), limit: "the machine's free memory" });
    let groups = control_groups().map(|bytes| Available { bytes, limit: "the control group's memory limit" });
    [machine, groups].into_iter().flatten().min_by_key(|available| available.bytes)
}

/// Refuses an image that would need more than there is.
///
/// # Errors
/// [`Reason::MemoryMissing`], with both numbers and what to do.
pub fn check(needed_bytes: u64, available: Option<&Available>) -> Result<(), Refusal> {
    match available {
        Some(available) if available.bytes < needed_bytes => Err(Refusal::new(
            Reason::MemoryMissing,
            format!(
                "the image needs {needed_bytes} bytes of memory and {} bytes can be had ({}). Give it more, or build it with a smaller \
                 capacity or fewer records",
                available.bytes, available.limit
            ),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used)]
    use super::*;

    #[test]
    fn lines_of_both_kinds_are_read() {
        assert_eq!(value("MemTotal: 5 kB\nMemAvailable:   123 kB\n", "MemAvailable:"), Some(123));
        assert_eq!(value("inactive_file 77\n", "inactive_file"), Some(77));
        assert_eq!(value("inactive_file\n", "inactive_file"), None);
        assert_eq!(value("inactive_file max\n", "inactive_file"), None);
    }

    #[test]
    fn a_terabyte_is_refused_with_both_numbers() {
        let available = Available { bytes: 1 << 30, limit: "a test" };
        assert!(check(1 << 30, Some(&available)).is_ok());
        let refusal = check(1 << 40, Some(&available)).expect_err("more than there is");
        assert_eq!(refusal.reason, Reason::MemoryMissing);
        assert!(refusal.message.contains("1099511627776") && refusal.message.contains("1073741824"));
        assert!(check(u64::MAX, None).is_ok());
    }
}
