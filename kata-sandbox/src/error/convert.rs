//! Failures of the layers below, told in this crate's terms.

use std::io;

use kata_hypervisor::{Error as VmError, Severity};
use kata_network::PluginFault;
use kata_protocol::manifest::ManifestError;
use kata_protocol::ttrpc::{CallError, Code};

use super::{Error, ErrorKind};

/// What is being attempted, on what: makes errors that say so.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    operation: &'static str,
    target: String,
}

impl Context {
    pub(crate) fn new(operation: &'static str, target: impl Into<String>) -> Self {
        Self {
            operation,
            target: target.into(),
        }
    }

    pub(crate) fn error(&self, kind: ErrorKind, reason: impl Into<String>) -> Error {
        Error::new(kind, self.operation, &*self.target).because(reason)
    }

    pub(crate) fn invalid(&self, reason: impl Into<String>) -> Error {
        self.error(ErrorKind::InvalidConfig, reason)
    }

    pub(crate) fn io(&self, what: impl Into<String>, source: io::Error) -> Error {
        Error::io(self.operation, &*self.target, what, source)
    }

    /// An error of the hypervisor.
    pub(crate) fn vm(&self, source: VmError) -> Error {
        let kind = match &source {
            VmError::Unsupported { .. } => ErrorKind::Unsupported,
            VmError::NotCapable { .. } => ErrorKind::HostNotCapable,
            VmError::InvalidConfig { .. } => ErrorKind::InvalidConfig,
            VmError::Spawn { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                ErrorKind::HostNotCapable
            }
            VmError::File { source, .. }
            | VmError::Spawn { source, .. }
            | VmError::Host { source, .. } => ErrorKind::of_io(source),
            VmError::Ended { .. } => ErrorKind::GuestLost,
            VmError::Timeout { .. } | VmError::DeviceBusy { .. } => ErrorKind::Timeout,
            VmError::Refused { .. } => ErrorKind::NotFound,
            VmError::State { .. } => ErrorKind::InvalidState,
            VmError::Device {
                source: kata_devices::Error::DiskInUse { .. },
                ..
            } => ErrorKind::InvalidState,
            VmError::Device {
                source: kata_devices::Error::Host { source, .. },
                ..
            } => ErrorKind::of_io(source),
            _ => ErrorKind::Internal,
        };
        let phase = match &source {
            VmError::Ended { phase, .. } | VmError::Timeout { phase, .. } => Some(*phase),
            _ => None,
        };
        let remedy = remedy(&source);
        let tail = source.console_tail().map(<[u8]>::to_vec);
        let mut error = Error::new(kind, self.operation, &*self.target).caused_by(source);
        if let Some(phase) = phase {
            error = error.during(phase);
        }
        if let Some(remedy) = remedy {
            error = error.with_remedy(remedy);
        }
        match tail {
            Some(tail) => error.with_console(|| tail),
            None => error,
        }
    }

    /// An error of a call to the agent.
    pub(crate) fn call(&self, source: CallError) -> Error {
        let kind = match &source {
            CallError::Status { status, .. } => of_code(status.code()),
            CallError::Timeout { .. } => ErrorKind::Timeout,
            CallError::Disconnected { .. } => ErrorKind::GuestLost,
            CallError::Malformed { .. } => ErrorKind::Protocol,
            _ => ErrorKind::Internal,
        };
        Error::new(kind, self.operation, &*self.target).caused_by(source)
    }

    /// An error of the guest image.
    pub(crate) fn image(&self, source: ManifestError) -> Error {
        let kind = match &source {
            ManifestError::Read { source, .. } => ErrorKind::of_io(source),
            _ => ErrorKind::InvalidConfig,
        };
        let error = Error::new(kind, self.operation, &*self.target)
            .because("the guest image cannot be used")
            .during("guest image");
        let error = match kind {
            ErrorKind::NotFound => error.with_remedy("make an image with kata-image"),
            _ => error,
        };
        error.caused_by(source)
    }

    /// An error of the network.
    pub(crate) fn network(&self, source: kata_network::Error) -> Error {
        let kind = match &source {
            kata_network::Error::Unsupported { .. } => ErrorKind::Unsupported,
            kata_network::Error::InvalidConfig { .. }
            | kata_network::Error::NotANamespace { .. } => ErrorKind::InvalidConfig,
            kata_network::Error::HostNetwork { .. } | kata_network::Error::Interface { .. } => {
                ErrorKind::Unsupported
            }
            kata_network::Error::Timeout { .. } => ErrorKind::Timeout,
            kata_network::Error::Plugin(error) => of_plugin(&error.fault),
            kata_network::Error::Host { source, .. } => ErrorKind::of_io(source),
            _ => ErrorKind::Internal,
        };
        Error::new(kind, self.operation, &*self.target)
            .during("network")
            .caused_by(source)
    }

    /// An error of a shared directory.
    pub(crate) fn share(&self, what: impl Into<String>, source: kata_devices::Error) -> Error {
        let kind = match &source {
            kata_devices::Error::Host { source, .. } => ErrorKind::of_io(source),
            _ => ErrorKind::InvalidConfig,
        };
        self.error(kind, what).caused_by(source)
    }

    /// A blocking task that panicked, or was dropped with its runtime.
    pub(crate) fn join(&self, source: tokio::task::JoinError) -> Error {
        let kind = if source.is_cancelled() {
            ErrorKind::Cancelled
        } else {
            ErrorKind::Internal
        };
        Error::new(kind, self.operation, &*self.target).caused_by(source)
    }
}

/// What kind of error a plugin's is.
fn of_plugin(fault: &PluginFault) -> ErrorKind {
    match fault {
        PluginFault::Missing { .. } => ErrorKind::NotFound,
        PluginFault::Hung { .. } => ErrorKind::Timeout,
        PluginFault::Version { .. } => ErrorKind::Unsupported,
        PluginFault::GivenUp => ErrorKind::Cancelled,
        PluginFault::Spawn(error) => ErrorKind::of_io(error),
        _ => ErrorKind::Internal,
    }
}

fn of_code(code: Code) -> ErrorKind {
    match code {
        Code::Cancelled | Code::Aborted => ErrorKind::Cancelled,
        Code::InvalidArgument | Code::OutOfRange => ErrorKind::InvalidConfig,
        Code::DeadlineExceeded => ErrorKind::Timeout,
        Code::NotFound => ErrorKind::NotFound,
        Code::AlreadyExists => ErrorKind::AlreadyExists,
        Code::PermissionDenied | Code::Unauthenticated => ErrorKind::Denied,
        Code::ResourceExhausted => ErrorKind::Resource,
        Code::FailedPrecondition => ErrorKind::InvalidState,
        Code::Unimplemented => ErrorKind::Unsupported,
        Code::Unavailable | Code::DataLoss => ErrorKind::GuestLost,
        Code::Ok | Code::Unknown | Code::Internal => ErrorKind::Internal,
    }
}

fn remedy(error: &VmError) -> Option<String> {
    match error {
        // The finding's own text is in the source already.
        VmError::NotCapable { findings, .. } => findings
            .iter()
            .any(|finding| finding.severity == Severity::Blocker && finding.remedy.is_none())
            .then(|| "see Runtime::probe for what was found".to_owned()),
        VmError::Spawn { program, source } if source.kind() == io::ErrorKind::NotFound => {
            let name = program.file_name().unwrap_or(program.as_os_str());
            Some(format!("install {}, or say where it is", name.display()))
        }
        VmError::Spawn { program, source } if source.kind() == io::ErrorKind::PermissionDenied => {
            Some(format!(
                "make {} executable for this user",
                program.display()
            ))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;
    use std::time::Duration;

    use kata_hypervisor::Finding;
    use kata_protocol::ttrpc::Status;

    use super::*;

    fn context() -> Context {
        Context::new("start sandbox", "demo")
    }

    #[test]
    fn a_host_that_cannot_says_what_the_probe_found() {
        let findings = vec![Finding {
            severity: Severity::Blocker,
            what: "/dev/kvm is missing".into(),
            remedy: Some("load the kvm module".into()),
        }];
        let error = context().vm(VmError::NotCapable {
            backend: "kvm",
            findings,
        });
        assert_eq!(error.kind(), ErrorKind::HostNotCapable);
        let text = format!("{error:#}");
        assert_eq!(text.matches("/dev/kvm is missing").count(), 1, "{text}");
        assert!(text.contains("load the kvm module"), "{text}");
    }

    #[test]
    fn a_missing_monitor_is_the_hosts_lack_and_names_the_remedy() {
        let source = io::Error::from(io::ErrorKind::NotFound);
        let program = "/usr/bin/qemu-system-x86_64".into();
        let error = context().vm(VmError::Spawn { program, source });
        assert_eq!(error.kind(), ErrorKind::HostNotCapable);
        assert_eq!(
            error.remedy(),
            Some("install qemu-system-x86_64, or say where it is")
        );
    }

    #[test]
    fn a_guest_that_ends_hands_over_phase_and_console() {
        let error = context().vm(VmError::Ended {
            phase: "boot",
            reason: "panic".into(),
            console_tail: b"Kernel panic".to_vec(),
        });
        assert_eq!(
            (error.kind(), error.phase()),
            (ErrorKind::GuestLost, Some("boot"))
        );
        assert_eq!(error.console_tail(), Some(&b"Kernel panic"[..]));
    }

    #[test]
    fn every_error_of_the_hypervisor_has_its_kind() {
        let io = |kind| io::Error::from(kind);
        let path = std::path::PathBuf::from("/k");
        let device = kata_devices::Error::Host {
            operation: "bind".into(),
            source: io(io::ErrorKind::PermissionDenied),
        };
        let table = [
            (
                VmError::Unsupported {
                    backend: "b",
                    operation: "o",
                },
                ErrorKind::Unsupported,
            ),
            (
                VmError::InvalidConfig {
                    field: "vcpus",
                    reason: "0".into(),
                },
                ErrorKind::InvalidConfig,
            ),
            (
                VmError::File {
                    what: "kernel",
                    path,
                    source: io(io::ErrorKind::NotFound),
                },
                ErrorKind::NotFound,
            ),
            (
                VmError::Timeout {
                    phase: "qmp",
                    deadline: Duration::from_secs(1),
                    console_tail: vec![],
                },
                ErrorKind::Timeout,
            ),
            (VmError::Refused { port: 1 }, ErrorKind::NotFound),
            (
                VmError::State {
                    operation: "o",
                    state: "s",
                },
                ErrorKind::InvalidState,
            ),
            (
                VmError::Command {
                    backend: "b",
                    command: "c".into(),
                    reason: "r".into(),
                },
                ErrorKind::Internal,
            ),
            (
                VmError::Host {
                    operation: "o".into(),
                    source: io(io::ErrorKind::StorageFull),
                },
                ErrorKind::Resource,
            ),
            (
                VmError::Device {
                    device: "fs",
                    source: device,
                },
                ErrorKind::Denied,
            ),
        ];
        for (source, kind) in table {
            let text = source.to_string();
            assert_eq!(context().vm(source).kind(), kind, "{text}");
        }
    }

    #[test]
    fn an_answer_of_the_agent_keeps_its_words_in_the_source() {
        let status = Status::new(Code::NotFound, "no such program: /bin/nope");
        let error = context().call(CallError::Status {
            method: "ExecProcess",
            status,
        });
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(
            error.source().unwrap().to_string(),
            "ExecProcess: no such program: /bin/nope"
        );
        let gone = CallError::Disconnected {
            method: "x",
            reason: "eof".into(),
        };
        assert_eq!(context().call(gone).kind(), ErrorKind::GuestLost);
        let late = CallError::Timeout {
            method: "x",
            deadline: Duration::from_secs(1),
        };
        assert_eq!(context().call(late).kind(), ErrorKind::Timeout);
    }

    #[test]
    fn every_status_code_has_a_kind() {
        for (code, kind) in [
            (Code::InvalidArgument, ErrorKind::InvalidConfig),
            (Code::AlreadyExists, ErrorKind::AlreadyExists),
            (Code::PermissionDenied, ErrorKind::Denied),
            (Code::ResourceExhausted, ErrorKind::Resource),
            (Code::FailedPrecondition, ErrorKind::InvalidState),
            (Code::Unimplemented, ErrorKind::Unsupported),
            (Code::DeadlineExceeded, ErrorKind::Timeout),
            (Code::Aborted, ErrorKind::Cancelled),
            (Code::Unavailable, ErrorKind::GuestLost),
            (Code::Internal, ErrorKind::Internal),
        ] {
            assert_eq!(of_code(code), kind, "{code:?}");
        }
    }

    #[test]
    fn a_missing_image_says_how_to_make_one() {
        let source = io::Error::from(io::ErrorKind::NotFound);
        let error = context().image(ManifestError::Read {
            path: "/i".into(),
            source,
        });
        assert_eq!(
            (error.kind(), error.phase()),
            (ErrorKind::NotFound, Some("guest image"))
        );
        assert!(error.remedy().unwrap().contains("kata-image"));
    }

    #[test]
    fn errors_of_the_network_name_it() {
        let source = kata_network::Error::Peer {
            peer: "bridge".into(),
            operation: "ADD".into(),
            reason: "no range left".into(),
        };
        let error = context().network(source);
        assert_eq!(error.phase(), Some("network"));
        assert!(format!("{error:#}").contains("bridge failed to ADD: no range left"));
    }
}
