//! Why a virtual machine could not be made, run or asked.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::probe::Finding;

/// `Result` of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a virtual machine could not be made, run or asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The backend cannot do that at all.
    #[error("{backend} does not support {operation}")]
    Unsupported {
        /// The backend's name.
        backend: &'static str,
        /// What was asked of it.
        operation: &'static str,
    },
    /// The backend does not work on this host.
    #[error(
        "{backend} cannot run virtual machines on this host: {}",
        explain(findings)
    )]
    NotCapable {
        /// The backend's name.
        backend: &'static str,
        /// What the probe found.
        findings: Vec<Finding>,
    },
    /// The description makes no machine.
    #[error("invalid {field}: {reason}")]
    InvalidConfig {
        /// The field of the configuration.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A file that the machine needs cannot be used.
    #[error("cannot use {what} {}", path.display())]
    File {
        /// What it is: `kernel`, `initramfs`, `vsock socket`.
        what: &'static str,
        /// Where it is.
        path: PathBuf,
        /// Why it cannot be used.
        source: io::Error,
    },
    /// The virtual machine monitor could not be started.
    #[error("cannot start {}", program.display())]
    Spawn {
        /// Its program.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The virtual machine monitor, or the guest, ended before it should.
    #[error("the virtual machine ended while {phase}: {reason}")]
    Ended {
        /// What was going on.
        phase: &'static str,
        /// How it ended, with the monitor's own last words.
        reason: String,
        /// The last bytes of the guest's console.
        console_tail: Vec<u8>,
    },
    /// Something did not happen in time.
    #[error("{phase} took longer than {} ms", deadline.as_millis())]
    Timeout {
        /// What was going on.
        phase: &'static str,
        /// How long was waited.
        deadline: Duration,
        /// The last bytes of the guest's console.
        console_tail: Vec<u8>,
    },
    /// A device of a machine that has ended is still at work for it.
    #[error(
        "the {device} device still works after {} ms: what it uses is not free yet; \
         stop the machine again to wait for it, and see why the host takes so long",
        deadline.as_millis()
    )]
    DeviceBusy {
        /// Which device, with what it uses.
        device: String,
        /// How long was waited.
        deadline: Duration,
    },
    /// The monitor refused a command.
    #[error("{backend} refused {command}: {reason}")]
    Command {
        /// The backend's name.
        backend: &'static str,
        /// The command.
        command: String,
        /// The monitor's answer.
        reason: String,
    },
    /// Nobody listens on that port in the guest.
    #[error("nothing in the guest accepts connections on vsock port {port}")]
    Refused {
        /// The port.
        port: u32,
    },
    /// The machine is in the wrong state for this.
    #[error("the virtual machine is {state}, and {operation} needs it otherwise")]
    State {
        /// What was asked.
        operation: &'static str,
        /// What the machine is: `not started`, `stopped`.
        state: &'static str,
    },
    /// The host refused something.
    #[error("cannot {operation}")]
    Host {
        /// What was attempted, and on what.
        operation: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A device could not be set up.
    #[error("cannot set up the {device} device")]
    Device {
        /// Which device.
        device: &'static str,
        /// Why not.
        source: kata_devices::Error,
    },
}

fn explain(findings: &[Finding]) -> String {
    findings
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

impl Error {
    /// The last bytes of the guest's console, where the guest is involved.
    #[must_use]
    pub fn console_tail(&self) -> Option<&[u8]> {
        match self {
            Self::Ended { console_tail, .. } | Self::Timeout { console_tail, .. } => {
                Some(console_tail)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::Severity;

    #[test]
    fn a_host_that_is_not_capable_is_explained_with_remedies() {
        let finding = |what: &str, remedy: Option<&str>| Finding {
            severity: Severity::Blocker,
            what: what.to_owned(),
            remedy: remedy.map(str::to_owned),
        };
        let error = Error::NotCapable {
            backend: "acme",
            findings: vec![
                finding("no acme", Some("install it")),
                finding("no luck", None),
            ],
        };
        assert_eq!(
            error.to_string(),
            "acme cannot run virtual machines on this host: no acme (install it); no luck"
        );
        assert_eq!(error.console_tail(), None);
    }

    #[test]
    fn errors_that_involve_the_guest_carry_its_console() {
        let error = Error::Timeout {
            phase: "booting",
            deadline: Duration::from_millis(1500),
            console_tail: b"oops".to_vec(),
        };
        assert_eq!(error.to_string(), "booting took longer than 1500 ms");
        assert_eq!(error.console_tail(), Some(&b"oops"[..]));
    }
}
