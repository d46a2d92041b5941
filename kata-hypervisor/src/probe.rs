//! What a backend finds on a host.

use std::fmt;

/// How a backend executes guest code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Acceleration {
    /// The host kernel's KVM.
    Kvm,
    /// Translation in software: every host has it, and it is slow.
    Emulation,
}

impl fmt::Display for Acceleration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "KVM",
            Self::Emulation => "emulation",
        })
    }
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Good to know.
    Note,
    /// It works, but worse than it could.
    Warning,
    /// It does not work.
    Blocker,
}

/// One thing that a probe found, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What was found, such as `/dev/kvm cannot be opened: permission denied`.
    pub what: String,
    /// What would help, such as `add this user to the group kvm`.
    pub remedy: Option<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        self.remedy
            .as_ref()
            .map_or(Ok(()), |remedy| write!(f, " ({remedy})"))
    }
}

/// What a backend found on this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Probe {
    /// How guests would run; `None` when they cannot.
    pub acceleration: Option<Acceleration>,
    /// Version of the virtual machine monitor, where it is a program.
    pub version: Option<String>,
    /// What was found, in the order of looking.
    pub findings: Vec<Finding>,
}

impl Probe {
    /// Whether the backend runs virtual machines here.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.acceleration.is_some()
    }

    /// Adds a finding.
    pub fn find(&mut self, severity: Severity, what: impl Into<String>, remedy: Option<&str>) {
        let remedy = remedy.map(str::to_owned);
        self.findings.push(Finding {
            severity,
            what: what.into(),
            remedy,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_usable_when_guests_would_run() {
        let mut probe = Probe::default();
        probe.find(Severity::Warning, "slow", Some("wait"));
        assert!(!probe.is_usable());
        probe.acceleration = Some(Acceleration::Emulation);
        assert!(probe.is_usable());
        assert_eq!(probe.findings[0].to_string(), "slow (wait)");
    }

    #[test]
    fn what_blocks_weighs_most() {
        assert!(Severity::Blocker > Severity::Warning && Severity::Warning > Severity::Note);
        assert_eq!(Acceleration::Kvm.to_string(), "KVM");
    }
}
