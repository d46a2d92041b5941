//! Capability sets, by name as the OCI specification has them.

use std::sync::OnceLock;

use kata_protocol::agent::LinuxCapabilities;
use kata_protocol::ttrpc::Status;
use log::warn;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capability_is_in_bounding_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
};

use super::failure::Context as _;

/// In the kernel's order: the index is the number (capability.h).
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The sets a process ends up with. Without any in the specification it has
/// none, as with runc.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Capabilities {
    bounding: u64,
    effective: u64,
    inheritable: u64,
    permitted: u64,
    ambient: u64,
}

impl Capabilities {
    pub(super) fn new(sets: Option<&LinuxCapabilities>) -> Self {
        sets.map_or_else(Self::default, |sets| Self {
            bounding: mask(&sets.bounding) & known(),
            effective: mask(&sets.effective) & known(),
            inheritable: mask(&sets.inheritable) & known(),
            permitted: mask(&sets.permitted) & known(),
            // The kernel raises none that is not permitted and inheritable too;
            // runc's own specification asks for some that are not, and goes on
            // without them.
            ambient: mask(&sets.ambient)
                & known()
                & mask(&sets.permitted)
                & mask(&sets.inheritable),
        })
    }

    /// Whether CAP_SYS_PTRACE is had, or can be gained.
    pub(super) fn may_trace(&self) -> bool {
        const SYS_PTRACE: u64 = 1 << 19;
        let all = self.bounding | self.permitted | self.inheritable | self.ambient;
        all & SYS_PTRACE != 0
    }

    /// Limits what can ever be gained. Needs CAP_SETPCAP: before the user
    /// changes.
    pub(super) fn bound(&self) -> Result<(), Status> {
        for number in (0..64).filter(|number| known() & !self.bounding & 1 << number != 0) {
            remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number))
                .context(|| format!("drop {} from the bounding set", name(number)))?;
        }
        Ok(())
    }

    /// Takes on the sets; as the user the process will be.
    pub(super) fn apply(&self) -> Result<(), Status> {
        let set = CapabilitySet::from_bits_retain;
        set_capabilities(
            None,
            CapabilitySets {
                effective: set(self.effective),
                permitted: set(self.permitted),
                inheritable: set(self.inheritable),
            },
        )
        .context(|| "set the capabilities")?;
        for number in (0..64).filter(|number| self.ambient & 1 << number != 0) {
            configure_capability_in_ambient_set(set(1 << number), true)
                .context(|| format!("raise the ambient capability {}", name(number)))?;
        }
        Ok(())
    }
}

fn name(number: usize) -> &'static str {
    NAMES.get(number).copied().unwrap_or("unknown")
}

/// Capabilities this kernel has, which may be fewer than have names. Asked
/// once: a copy of the agent that starts a process has the answer.
fn known() -> u64 {
    static KNOWN: OnceLock<u64> = OnceLock::new();
    *KNOWN.get_or_init(|| {
        (0..64)
            .map(|number| 1 << number)
            .take_while(|bit| {
                capability_is_in_bounding_set(CapabilitySet::from_bits_retain(*bit)).is_ok()
            })
            .fold(0, |all, bit| all | bit)
    })
}

fn mask(names: &[String]) -> u64 {
    names.iter().fold(0, |mask, full| {
        let upper = full.to_ascii_uppercase();
        let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
        match NAMES.iter().position(|name| *name == short) {
            Some(number) => mask | 1 << number,
            None => {
                warn!(capability = full.as_str(); "ignoring an unknown capability");
                mask
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_at_the_kernels_numbers() {
        let number = |name: &str| NAMES.iter().position(|n| *n == name);
        assert_eq!(number("SYS_ADMIN"), Some(21));
        assert_eq!(number("MKNOD"), Some(27));
        assert_eq!(number("SYS_PTRACE"), Some(19));
        assert_eq!(number("CHECKPOINT_RESTORE"), Some(40));
    }

    #[test]
    fn names_are_taken_in_any_case_and_unknown_ones_skipped() {
        let names = ["CAP_CHOWN", "cap_kill", "CAP_FUTURE"].map(String::from);
        assert_eq!(mask(&names), 1 | 1 << 5);
    }

    #[test]
    fn an_ambient_capability_that_cannot_be_inherited_is_left_out() {
        let kill = vec!["CAP_KILL".to_owned()];
        let mut sets = LinuxCapabilities {
            permitted: kill.clone(),
            ambient: kill.clone(),
            ..LinuxCapabilities::default()
        };
        assert_eq!(Capabilities::new(Some(&sets)).ambient, 0);
        sets.inheritable = kill;
        assert_eq!(Capabilities::new(Some(&sets)).ambient, 1 << 5);
    }

    #[test]
    fn no_sets_mean_no_capability() {
        assert_eq!(Capabilities::new(None), Capabilities::default());
    }
}
