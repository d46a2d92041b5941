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

/// A number of bytes, for people.
pub(crate) fn mib(bytes: f64) -> String {
    format!("{:.2} MiB", bytes / f64::from(1 << 20))
}
