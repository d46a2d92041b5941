//! What a machine in this process costs.
//!
//! The process is the embedder's, so not all of it counts: the processors' time
//! is that of their threads, and overhead is what is resident of the mappings
//! that the machine made, guest memory aside: stacks of its threads and the
//! pages that they share with KVM. The few kilobytes of heap are not told
//! apart from others'.

use std::fs;
use std::io;
use std::ops::Range;
use std::time::Duration;

use rustix::process::Pid;

use super::memory::Memory;
use super::vcpu::Thread;
use crate::vm::VmUsage;

/// Reads the kernel's counters. Blocks for as long as it takes to list this
/// process's mappings.
pub(super) fn usage(memory: &Memory, vcpus: &[Thread]) -> io::Result<VmUsage> {
    let maps = fs::read_to_string("/proc/self/smaps")?;
    let guest = memory.addresses();
    let stacks: Vec<u64> = vcpus.iter().map(|thread| thread.stack as u64).collect();
    let mut counted = Counted::default();
    for mapping in mappings(&maps) {
        counted.add(&mapping, &guest, &stacks);
    }
    Ok(VmUsage {
        guest_memory: memory.provided().unwrap_or(Ok(counted.guest))?,
        overhead: counted.overhead,
        cpu: vcpus.iter().map(|thread| time(thread.id)).sum(),
    })
}

/// Resident bytes, by whose they are.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counted {
    guest: u64,
    overhead: u64,
}

impl Counted {
    fn add(&mut self, mapping: &Mapping, guest: &[Range<u64>], stacks: &[u64]) {
        let holds = |address: &u64| mapping.addresses.contains(address);
        if guest
            .iter()
            .any(|range| range.contains(&mapping.addresses.start))
        {
            self.guest += mapping.proportional;
        } else if stacks.iter().any(holds) {
            self.overhead += mapping.proportional;
        }
    }
}

/// One mapping of this process.
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    addresses: Range<u64>,
    /// Resident bytes, shared ones in proportion.
    proportional: u64,
}

fn mappings(smaps: &str) -> impl Iterator<Item = Mapping> + '_ {
    let mut addresses = None;
    smaps.lines().filter_map(move |line| {
        if let Some(size) = line.strip_prefix("Pss:") {
            let kibibytes: u64 = size.trim().trim_end_matches(" kB").parse().ok()?;
            return Some(Mapping {
                addresses: addresses.take()?,
                proportional: kibibytes << 10,
            });
        }
        if let Some(range) = head(line) {
            addresses = Some(range);
        }
        None
    })
}

/// The addresses with which the description of a mapping begins.
fn head(line: &str) -> Option<Range<u64>> {
    let (range, _) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let parse = |text| u64::from_str_radix(text, 16).ok();
    Some(parse(start)?..parse(end)?)
}

/// How long a thread has had a processor, guest included.
fn time(thread: Pid) -> Duration {
    let path = format!("/proc/self/task/{}/schedstat", thread.as_raw_nonzero());
    let line = fs::read_to_string(path).unwrap_or_default();
    let nanoseconds = line
        .split_ascii_whitespace()
        .next()
        .and_then(|word| word.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
1000-3000 rw-s 00000000 00:01 5 /memfd:kata-guest (deleted)
Size:  8 kB
Pss:   4 kB
Pss_Dirty: 4 kB
7f00-9f00 rw-p 00000000 00:00 0
Pss:   8 kB
b000-c000 r-xp 00000000 00:00 0 [vdso]
Pss:   1 kB
";

    #[test]
    fn mappings_are_counted_by_whose_they_are() {
        let mut counted = Counted::default();
        for mapping in mappings(SMAPS) {
            counted.add(&mapping, std::slice::from_ref(&(0x1000..0x3000)), &[0x8000]);
        }
        let expected = Counted {
            guest: 4096,
            overhead: 8192,
        };
        assert_eq!(counted, expected);
    }

    #[test]
    fn a_thread_of_this_process_has_used_time() {
        let thread = rustix::thread::gettid();
        let began = std::time::Instant::now();
        while time(thread).is_zero() {
            assert!(began.elapsed() < Duration::from_secs(10));
        }
    }
}
