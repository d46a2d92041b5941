//! What can go wrong with a plugin.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What went wrong with a CNI plugin, with all that it said.
#[derive(Debug)]
#[non_exhaustive]
pub struct PluginError {
    /// The network's name.
    pub network: String,
    /// The plugin's type, such as `bridge`.
    pub plugin: String,
    /// The interface in the sandbox; empty for commands that concern none.
    pub interface: String,
    /// What it was asked to do, such as `ADD`.
    pub command: &'static str,
    /// What went wrong.
    pub fault: PluginFault,
    /// The last that it wrote to its standard error.
    pub stderr: String,
}

/// What went wrong with a plugin.
#[derive(Debug)]
#[non_exhaustive]
pub enum PluginFault {
    /// None of the directories has it.
    Missing {
        /// Where it was looked for.
        searched: Vec<PathBuf>,
    },
    /// It could not be run.
    Spawn(io::Error),
    /// It ended without an answer.
    Crashed {
        /// Its exit status or signal.
        status: String,
    },
    /// It did not end in time, and was killed.
    Hung {
        /// How long it was given.
        limit: Duration,
    },
    /// Its answer is not one.
    Garbage {
        /// What is wrong with it.
        reason: String,
        /// How it begins.
        answer: String,
    },
    /// It said no.
    Refused {
        /// Its error code; those below 100 are in the CNI specification.
        code: u64,
        /// Its reason.
        message: String,
        /// More of it.
        details: String,
    },
    /// It does not speak the version of the network's configuration.
    Version {
        /// The configuration's.
        wanted: String,
        /// Its own.
        supported: Vec<String>,
    },
    /// The network hands addresses out, and this interface got none.
    NoAddress,
    /// Another interface of the sandbox has that address.
    DuplicateAddress(IpAddr),
    /// It says that it made an interface which is not there.
    NoInterface,
    /// The sandbox has more interfaces than its plugins are known to make: these.
    TooManyInterfaces(Vec<String>),
    /// The sandbox was given up meanwhile.
    GivenUp,
}

impl fmt::Display for PluginFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { searched } => {
                let dirs: Vec<_> = searched
                    .iter()
                    .map(|dir| dir.display().to_string())
                    .collect();
                write!(f, "there is no such plugin in {}", dirs.join(", "))
            }
            Self::Spawn(error) => write!(f, "it cannot be run: {error}"),
            Self::Crashed { status } => write!(f, "it crashed ({status})"),
            Self::Hung { limit } => write!(f, "it hung for {} ms", limit.as_millis()),
            Self::Garbage { reason, answer } => {
                write!(f, "its answer is garbage ({reason}): {answer:?}")
            }
            Self::Refused {
                code,
                message,
                details,
            } => {
                write!(f, "{message} (code {code})")?;
                if details.is_empty() {
                    return Ok(());
                }
                write!(f, ": {details}")
            }
            Self::Version { wanted, supported } => write!(
                f,
                "it does not speak CNI {wanted}, but {}",
                supported.join(", ")
            ),
            Self::NoAddress => f.write_str("it returned no address"),
            Self::DuplicateAddress(address) => {
                write!(
                    f,
                    "{address} is on another interface of the sandbox already"
                )
            }
            Self::NoInterface => {
                f.write_str("the interface that it says it made is not in the sandbox")
            }
            Self::TooManyInterfaces(names) => write!(
                f,
                "it makes more interfaces than one, which Cni::devices_ahead(false) allows: {}",
                names.join(", ")
            ),
            Self::GivenUp => f.write_str("the sandbox was given up"),
        }
    }
}

impl fmt::Display for PluginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            network,
            plugin,
            interface,
            command,
            fault,
            stderr,
        } = self;
        write!(f, "CNI plugin {plugin} of network {network}: {command}")?;
        if !interface.is_empty() {
            write!(f, " of {interface}")?;
        }
        write!(f, ": {fault}")?;
        if stderr.is_empty() {
            return Ok(());
        }
        write!(f, "; it wrote {:?}", stderr.trim_end())
    }
}

impl std::error::Error for PluginError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.fault {
            PluginFault::Spawn(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_plugin_network_interface_and_stderr() {
        let error = PluginError {
            network: "pods".into(),
            plugin: "bridge".into(),
            interface: "eth0".into(),
            command: "ADD",
            fault: PluginFault::Refused {
                code: 11,
                message: "try again".into(),
                details: "no lease".into(),
            },
            stderr: "panic\n".into(),
        };
        assert_eq!(
            error.to_string(),
            "CNI plugin bridge of network pods: ADD of eth0: try again (code 11): no lease; \
             it wrote \"panic\""
        );
    }
}
