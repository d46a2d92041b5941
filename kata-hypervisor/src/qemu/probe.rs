//! Whether QEMU runs machines on this host, and how.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::args::{Argument, Backend, Chardev, Monitor};
use super::knowledge::{Knowledge, Mark};
use super::qmp::{Qmp, QmpError};
use super::search::{USUAL, search};
use super::version::Version;
use super::{Settings, arch, autopsy};
use crate::child::{Child, Confinement, Program};
use crate::error::{Error, Result};
use crate::host_kvm::{DEVICE, Verdict, examine};
use crate::probe::{Acceleration, Probe, Severity};

/// How long QEMU may take to say who it is.
const DEADLINE: Duration = Duration::from_secs(10);

/// What is known of the host once it is known to be usable.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// What the embedder is told.
    pub(super) probe: Probe,
    /// The program.
    pub(super) binary: PathBuf,
    /// How guest code will be executed.
    pub(super) acceleration: Acceleration,
    /// Whether this QEMU was built with the `microvm` machine.
    pub(super) has_microvm: bool,
    /// Whether it was built with its system call filter.
    pub(super) has_sandbox: bool,
    /// The rate of the counter that emulated guests read.
    pub(super) tsc_khz: Option<u64>,
    /// What another process need not find out again.
    pub(super) knowledge: Option<Knowledge>,
}

/// What a QEMU says of itself, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answers {
    pub(super) version: Version,
    /// Those of [`NEEDED`] that it has.
    pub(super) devices: Vec<String>,
    /// `microvm`, if it has that.
    pub(super) machines: Vec<String>,
    /// Whether it has its system call filter.
    pub(super) sandbox: bool,
    /// Whether it was built with KVM.
    pub(super) kvm: bool,
}

/// Looks at the host; the probe says why when it is not usable. What is known
/// already, and still holds, is not asked again.
pub(super) async fn look(
    settings: &Settings,
    recalled: Option<&Knowledge>,
) -> Result<Facts, Probe> {
    let earlier = arch::Clocks::now();
    let mut probe = Probe::default();
    if !arch::SUPPORTED {
        let what = format!("{} hosts are not supported", std::env::consts::ARCH);
        probe.find(Severity::Blocker, what, Some(arch::REMEDY));
        return Err(probe);
    }
    let Some(binary) = find(settings, &mut probe) else {
        return Err(probe);
    };
    let examined = tokio::task::spawn_blocking(|| examine(Path::new(DEVICE)));
    // Taken before it is asked: a program that is replaced meanwhile is asked again.
    let mark = Mark::of(&binary);
    let known = recalled.filter(|known| known.is_of(mark.as_ref()));
    let answers = match known {
        Some(known) => known.answers.clone(),
        None => match ask(&binary).await {
            Ok(answers) => answers,
            Err(error) => {
                blame(&mut probe, &binary, &error);
                return Err(probe);
            }
        },
    };
    probe.version = Some(answers.version.to_string());
    judge_build(&answers, &mut probe);
    let verdict = examined
        .await
        .unwrap_or_else(|error| Verdict::Unusable(error.to_string()));
    let kvm = judge_kvm(&verdict, &answers, settings, &mut probe);
    note_host(&mut probe);
    if probe
        .findings
        .iter()
        .any(|finding| finding.severity == Severity::Blocker)
    {
        return Err(probe);
    }
    let acceleration = if kvm {
        Acceleration::Kvm
    } else {
        Acceleration::Emulation
    };
    probe.acceleration = Some(acceleration);
    let tsc_khz = match known {
        Some(known) => known.tsc_khz,
        None => arch::Clocks::now().khz_since(earlier),
    };
    Ok(Facts {
        probe,
        binary,
        acceleration,
        has_microvm: answers.machines.iter().any(|name| name == MICROVM),
        has_sandbox: answers.sandbox,
        tsc_khz,
        knowledge: mark.map(|mark| Knowledge {
            mark,
            answers,
            tsc_khz,
        }),
    })
}

fn find(settings: &Settings, probe: &mut Probe) -> Option<PathBuf> {
    if let Some(binary) = &settings.binary {
        return Some(binary.clone());
    }
    let found = search(arch::PROGRAMS, &USUAL);
    if found.is_none() {
        let places = USUAL.join(", ");
        let what = format!("{} is in none of {places}", arch::PROGRAMS[0]);
        let remedy = format!("{}, or say where it is with Qemu::binary", arch::REMEDY);
        probe.find(Severity::Blocker, what, Some(&remedy));
    }
    found
}

/// Runs QEMU without a machine and asks what it can.
async fn ask(binary: &Path) -> Result<Answers> {
    let (ours, theirs) = super::create::monitor_pair()?;
    let monitor = std::os::fd::AsRawFd::as_raw_fd(&theirs);
    let chardev = Chardev {
        id: "qmp".to_owned(),
        backend: Backend::Inherited(monitor),
    };
    let mut args = [
        "-machine",
        "none",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
    ]
    .map(Into::into)
    .to_vec();
    args.extend(chardev.to_args());
    args.extend(Monitor { chardev: "qmp" }.to_args());
    let program = Program {
        path: binary.to_owned(),
        args,
        inherit: vec![theirs],
        cgroup: Vec::new(),
        confinement: Confinement::default(),
    };
    let child = Child::spawn(program, "probe", Box::new(())).await?;
    let qmp = Qmp::new(ours);
    match interview(&qmp).await {
        Ok(answers) => Ok(answers),
        Err(error) => Err(autopsy::perform(&child, &error, "asking QEMU for its version").await),
    }
}

async fn interview(qmp: &Qmp) -> Result<Answers, QmpError> {
    let greeting = qmp.negotiate(DEADLINE).await?;
    let version = Version::from_greeting(&greeting)
        .ok_or_else(|| QmpError::Refused("the greeting tells no version".to_owned()))?;
    let devices = qmp.execute(
        "qom-list-types",
        Some(json!({"implements": "device"})),
        DEADLINE,
    );
    let devices = names(&devices.await?, &NEEDED);
    let machines = qmp.execute("query-machines", None, DEADLINE).await?;
    let machines = names(&machines, &[MICROVM]);
    let sandbox = qmp.execute(
        "query-command-line-options",
        Some(json!({"option": "sandbox"})),
        DEADLINE,
    );
    // A QEMU built without the filter does not know the option.
    let sandbox = sandbox.await.is_ok_and(|options| {
        options[0]["parameters"]
            .as_array()
            .is_some_and(|parameters| !parameters.is_empty())
    });
    let kvm = qmp.execute("query-kvm", None, DEADLINE).await?;
    let kvm = kvm["present"].as_bool().unwrap_or(false);
    Ok(Answers {
        version,
        devices,
        machines,
        sandbox,
        kvm,
    })
}

/// The names in a list, of those that matter.
fn names(list: &Value, wanted: &[&str]) -> Vec<String> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(|item| item["name"].as_str())
        .filter(|name| wanted.contains(name))
        .map(str::to_owned)
        .collect()
}

fn blame(probe: &mut Probe, binary: &Path, error: &Error) {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    let what = format!(
        "{} does not work: {error}{}",
        binary.display(),
        cause.unwrap_or_default()
    );
    probe.find(Severity::Blocker, what, Some(arch::REMEDY));
}

/// The machine without firmware, tables and PCI.
const MICROVM: &str = "microvm";
/// Devices without which nothing here runs.
const NEEDED: [&str; 2] = ["vhost-user-vsock-pci", "vhost-user-fs-pci"];

fn judge_build(answers: &Answers, probe: &mut Probe) {
    if answers.version < Version::OLDEST {
        let what = format!("QEMU {} is older than {}", answers.version, Version::OLDEST);
        probe.find(Severity::Blocker, what, Some(arch::REMEDY));
    }
    for device in NEEDED {
        if !answers.devices.iter().any(|name| name == device) {
            let what = format!("this QEMU was built without the device {device}");
            probe.find(Severity::Blocker, what, Some(arch::REMEDY));
        }
    }
    if !answers.sandbox {
        let remedy = "use a QEMU built with seccomp";
        let what = "QEMU's system call filter is missing; a guest that breaks out is less confined";
        probe.find(Severity::Warning, what, Some(remedy));
    }
}

/// Whether KVM is to be used; says why not.
fn judge_kvm(verdict: &Verdict, answers: &Answers, settings: &Settings, probe: &mut Probe) -> bool {
    if settings.acceleration == Some(Acceleration::Emulation) {
        probe.find(
            Severity::Note,
            "emulation was asked for; KVM is not used",
            None,
        );
        return false;
    }
    let severity = match settings.acceleration {
        Some(Acceleration::Kvm) => Severity::Blocker,
        _ => Severity::Warning,
    };
    if !answers.kvm {
        probe.find(
            severity,
            "this QEMU was built without KVM",
            Some(arch::REMEDY),
        );
        return false;
    }
    match verdict.problem(Path::new(DEVICE)) {
        None => true,
        Some((what, remedy)) => {
            probe.find(severity, what, Some(remedy));
            false
        }
    }
}

/// What does not change whether machines run, and is good to know.
fn note_host(probe: &mut Probe) {
    if !Path::new("/dev/vhost-vsock").exists() {
        let what = "/dev/vhost-vsock is not there; it is not needed: vsock is served in process";
        probe.find(Severity::Note, what, None);
    }
    for module in ["kvm_intel", "kvm_amd"] {
        let parameter = format!("/sys/module/{module}/parameters/nested");
        if let Ok(value) = std::fs::read_to_string(parameter)
            && matches!(value.trim(), "N" | "0")
        {
            let what = format!("{module} offers guests no virtualization of their own");
            let remedy = format!("load {module} with nested=1 if guests should run guests");
            probe.find(Severity::Note, what, Some(&remedy));
        }
    }
}

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;
