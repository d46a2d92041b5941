//! What this process costs, as the kernel counts it.

use std::io;

/// Proportional set size of this process, in bytes, and the part of it that is
/// private: what no other process shares.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pss {
    pub(crate) whole: u64,
    pub(crate) private: u64,
}

impl Pss {
    pub(crate) fn now() -> io::Result<Self> {
        let text = std::fs::read_to_string("/proc/self/smaps_rollup")?;
        let field = |name: &str| -> u64 {
            let line = text
                .lines()
                .find(|line| line.starts_with(name))
                .unwrap_or_default();
            line.split_whitespace()
                .nth(1)
                .and_then(|kib| kib.parse().ok())
                .unwrap_or(0)
                * 1024
        };
        Ok(Self {
            whole: field("Pss:"),
            private: field("Private_Clean:") + field("Private_Dirty:"),
        })
    }
}

/// Proportional set size of a process in bytes, but for guest memory, which
/// it has mapped for its devices.
pub(crate) fn pss_beside_memory(pid: u32) -> io::Result<u64> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let (mut is_guest, mut whole) = (false, 0);
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("Pss:") if !is_guest => {
                let kib = words.next().and_then(|kib| kib.parse::<u64>().ok());
                whole += kib.unwrap_or(0) * 1024;
            }
            // A mapping begins with its addresses.
            Some(first) if first.contains('-') => is_guest = line.contains("/memfd:"),
            _ => {}
        }
    }
    Ok(whole)
}

/// A number of bytes, for people.
pub(crate) fn mib(bytes: f64) -> String {
    format!("{:.2} MiB", bytes / f64::from(1 << 20))
}
