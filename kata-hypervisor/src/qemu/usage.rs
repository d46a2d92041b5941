//! What a QEMU process costs the host, as the kernel counts it.

use std::io;
use std::time::Duration;

use rustix::process::Pid;

use crate::vm::VmUsage;

/// Reads the counters of a live process.
pub(super) async fn usage(pid: Pid) -> io::Result<VmUsage> {
    let proc = format!("/proc/{}", pid.as_raw_nonzero());
    let status = tokio::fs::read_to_string(format!("{proc}/status")).await?;
    let stat = tokio::fs::read_to_string(format!("{proc}/stat")).await?;
    parse(&status, &stat)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is odd"))
}

/// The guest's memory is the one shared mapping of a QEMU process (a memfd);
/// all else that is resident is overhead.
fn parse(status: &str, stat: &str) -> Option<VmUsage> {
    let shared = kibibytes(status, "RssShmem:")?;
    let overhead = kibibytes(status, "RssAnon:")? + kibibytes(status, "RssFile:")?;
    Some(VmUsage {
        guest_memory: shared << 10,
        overhead: overhead << 10,
        cpu: cpu(stat)?,
    })
}

fn kibibytes(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// Fields 14 and 15 of `stat`, in ticks; the second field may contain anything.
fn cpu(stat: &str) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let per_second = rustix::param::clock_ticks_per_second();
    let milliseconds = (user + system).checked_mul(1000)?.checked_div(per_second)?;
    Some(Duration::from_millis(milliseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 3 0 99";

    #[test]
    fn shared_memory_is_the_guests() {
        let status = "Name:\tqemu\nRssAnon:\t    20 kB\nRssFile:\t   10 kB\nRssShmem:\t  4 kB\n";
        let usage = parse(status, STAT).unwrap();
        assert_eq!(usage.guest_memory, 4096);
        assert_eq!(usage.overhead, 30 << 10);
        assert_eq!(
            usage.cpu,
            Duration::from_secs(200)
                / u32::try_from(rustix::param::clock_ticks_per_second()).unwrap()
        );
    }

    #[test]
    fn a_zombie_has_no_usage() {
        assert_eq!(parse("Name:\tqemu\nState:\tZ\n", STAT), None);
    }

    #[tokio::test]
    async fn a_real_process_has_one() {
        let usage = usage(rustix::process::getpid()).await.unwrap();
        assert!(usage.overhead > 1 << 20, "{usage:?}");
    }
}
