//! One call of one plugin (CNI specification, section 2).

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{Access, access};
use serde_json::{Map, Value, json};

use super::config::{NetworkConfig, PluginConfig};
use super::error::{PluginError, PluginFault};
use super::result::PluginResult;
use super::run::{End, Outcome, run};
use super::version::Version;

/// Where plugins find what they call themselves, such as `iptables`.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How much of an answer that is none is shown, in characters.
const SHOWN: usize = 200;
/// The specification's code for a version that a plugin does not speak.
const INCOMPATIBLE: u64 = 1;

/// How plugins are called.
#[derive(Clone, Debug)]
pub(super) struct Caller<'a> {
    /// Where they are looked for.
    pub(super) directories: &'a [PathBuf],
    /// How long each may take.
    pub(super) limit: Duration,
    /// Readable when nobody wants the result any more.
    pub(super) given_up: &'a OwnedFd,
}

/// What an interface's calls have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject<'a> {
    pub(super) network: &'a NetworkConfig,
    pub(super) container: &'a str,
    /// The namespace's path; `None` when it is gone.
    pub(super) netns: Option<&'a str>,
    pub(super) interface: &'a str,
    /// `KEY=value;…`
    pub(super) args: &'a str,
}

impl Caller<'_> {
    /// Calls a plugin, and gives its answer.
    pub(super) fn call(
        &self,
        command: &'static str,
        subject: Subject<'_>,
        plugin: &PluginConfig,
        extra: Map<String, Value>,
    ) -> Result<Value, Box<PluginError>> {
        let fail = |fault, stderr: &[u8]| {
            Box::new(PluginError {
                network: subject.network.name.clone(),
                plugin: plugin.kind.clone(),
                interface: subject.interface.to_owned(),
                command,
                fault,
                stderr: String::from_utf8_lossy(stderr).into_owned(),
            })
        };
        let program = self.find(&plugin.kind).ok_or_else(|| {
            let searched = self.directories.to_vec();
            fail(PluginFault::Missing { searched }, b"")
        })?;
        let mut input = plugin.object.clone();
        input.insert(
            "cniVersion".into(),
            json!(subject.network.version.to_string()),
        );
        input.insert("name".into(), json!(subject.network.name));
        input.extend(extra);
        let input = Value::Object(input).to_string();
        let environment = self.environment(command, subject);
        let outcome = run(
            &program,
            environment,
            input.as_bytes(),
            self.limit,
            self.given_up,
        );
        let outcome = outcome.map_err(|error| fail(PluginFault::Spawn(error), b""))?;
        judge(&outcome, self.limit).map_err(|fault| {
            let fault = match fault {
                PluginFault::Refused {
                    code: INCOMPATIBLE, ..
                } => self.explain_version(subject.network.version, plugin, fault),
                fault => fault,
            };
            fail(fault, &outcome.stderr)
        })
    }

    /// Whether there is such a plugin.
    pub(super) fn has(&self, kind: &str) -> bool {
        self.find(kind).is_some()
    }

    fn find(&self, kind: &str) -> Option<PathBuf> {
        let programs = self
            .directories
            .iter()
            .map(|directory| directory.join(kind));
        programs
            .into_iter()
            .find(|program| program.is_file() && access(program, Access::EXEC_OK).is_ok())
    }

    fn environment(&self, command: &str, subject: Subject<'_>) -> Vec<(&'static str, OsString)> {
        let directories = std::env::join_paths(self.directories).unwrap_or_default();
        let mut environment = vec![
            ("PATH", OsString::from(PATH)),
            ("CNI_COMMAND", command.into()),
            ("CNI_PATH", directories),
        ];
        if !subject.container.is_empty() {
            environment.push(("CNI_CONTAINERID", subject.container.into()));
            environment.push(("CNI_IFNAME", subject.interface.into()));
            environment.push(("CNI_NETNS", subject.netns.unwrap_or_default().into()));
        }
        if !subject.args.is_empty() {
            environment.push(("CNI_ARGS", subject.args.into()));
        }
        environment
    }

    /// The versions that a plugin speaks.
    pub(super) fn versions(&self, plugin: &PluginConfig, version: Version) -> Option<Vec<String>> {
        let program = self.find(&plugin.kind)?;
        let input = json!({ "cniVersion": version.to_string() }).to_string();
        let directories = std::env::join_paths(self.directories).unwrap_or_default();
        let environment = vec![
            ("PATH", OsString::from(PATH)),
            ("CNI_COMMAND", "VERSION".into()),
            ("CNI_PATH", directories),
        ];
        let outcome = run(
            &program,
            environment,
            input.as_bytes(),
            self.limit,
            self.given_up,
        );
        let answer = judge(&outcome.ok()?, self.limit).ok()?;
        let versions = answer["supportedVersions"].as_array()?;
        Some(
            versions
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
        )
    }

    fn explain_version(
        &self,
        wanted: Version,
        plugin: &PluginConfig,
        fault: PluginFault,
    ) -> PluginFault {
        match self.versions(plugin, wanted) {
            Some(supported) if !supported.contains(&wanted.to_string()) => PluginFault::Version {
                wanted: wanted.to_string(),
                supported,
            },
            _ => fault,
        }
    }
}

/// What a program's end and answer mean. An answer need not be: `DEL` has none.
fn judge(outcome: &Outcome, limit: Duration) -> Result<Value, PluginFault> {
    let status = match outcome.end {
        End::Exited(status) => status,
        End::Hung => return Err(PluginFault::Hung { limit }),
        End::GivenUp => return Err(PluginFault::GivenUp),
    };
    let parsed = serde_json::from_slice(&outcome.stdout);
    if status.success() {
        if outcome.stdout.trim_ascii().is_empty() {
            return Ok(Value::Null);
        }
        return parsed.map_err(|error| garbage(error.to_string(), &outcome.stdout));
    }
    match parsed {
        Ok(Value::Object(error)) if error.contains_key("code") => {
            let text = |key: &str| error.get(key).and_then(Value::as_str).unwrap_or_default();
            Err(PluginFault::Refused {
                code: error["code"].as_u64().unwrap_or_default(),
                message: text("msg").to_owned(),
                details: text("details").to_owned(),
            })
        }
        _ if outcome.stdout.trim_ascii().is_empty() || status.code().is_none() => {
            let status = status.to_string();
            Err(PluginFault::Crashed { status })
        }
        Ok(_) => Err(garbage("it is no error of CNI".to_owned(), &outcome.stdout)),
        Err(error) => Err(garbage(error.to_string(), &outcome.stdout)),
    }
}

fn garbage(reason: String, answer: &[u8]) -> PluginFault {
    let answer = String::from_utf8_lossy(answer);
    PluginFault::Garbage {
        reason,
        answer: answer.chars().take(SHOWN).collect(),
    }
}

/// Reads the answer to an `ADD`.
pub(super) fn result_of(answer: &Value) -> Result<PluginResult, PluginFault> {
    PluginResult::parse(answer).map_err(|reason| garbage(reason, answer.to_string().as_bytes()))
}
