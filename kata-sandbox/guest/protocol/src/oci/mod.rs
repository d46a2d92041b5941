//! A runtime specification in the form that the agent is given.
//!
//! The messages follow config.json field for field, so this is a renaming. Two
//! conventions of the wire are not in the names: an optional number that is
//! absent travels as 0, and a device rule for any major or minor number has -1.
//! Fields for which the wire has no place ([`unsupported`]) are reported, so
//! that nothing is dropped in silence.

mod resources;

use std::collections::BTreeMap;
use std::path::Path;

use oci_spec::runtime as oci;
use serde::Serialize;

use crate::agent as wire;
pub use resources::resources;

/// The agent's form of a whole specification.
#[must_use]
pub fn spec(spec: &oci::Spec) -> wire::Spec {
    wire::Spec {
        version: spec.version().clone(),
        process: spec.process().as_ref().map(process),
        root: spec.root().as_ref().map(|root| wire::Root {
            path: text(root.path()),
            readonly: root.readonly().unwrap_or(false),
        }),
        hostname: word(spec.hostname()),
        mounts: each(spec.mounts(), mount),
        hooks: spec.hooks().as_ref().map(hooks),
        annotations: map(spec.annotations()),
        linux: spec.linux().as_ref().map(linux),
        solaris: None,
        windows: None,
        domainname: word(spec.domainname()),
    }
}

/// What in `spec` the agent cannot be told, by the path of the field.
#[must_use]
pub fn unsupported(spec: &oci::Spec) -> Vec<&'static str> {
    let linux = spec.linux().as_ref();
    let resources = linux.and_then(|linux| linux.resources().as_ref());
    let memory = resources.and_then(|resources| resources.memory().as_ref());
    let process = spec.process().as_ref();
    let seccomp = linux.and_then(|linux| linux.seccomp().as_ref());
    let present = [
        (
            "process.commandLine",
            process.is_some_and(|p| p.command_line().is_some()),
        ),
        (
            "linux.netDevices",
            linux.is_some_and(|l| l.net_devices().is_some()),
        ),
        (
            "linux.memoryPolicy",
            linux.is_some_and(|l| l.memory_policy().is_some()),
        ),
        (
            "linux.intelRdt",
            linux.is_some_and(|l| l.intel_rdt().is_some()),
        ),
        (
            "linux.resources.memory.useHierarchy",
            memory.is_some_and(|m| m.use_hierarchy() == Some(false)),
        ),
        (
            "linux.seccomp.listenerPath",
            seccomp.is_some_and(|s| s.listener_path().is_some()),
        ),
        ("uidMappings", spec.uid_mappings().is_some()),
        ("gidMappings", spec.gid_mappings().is_some()),
        ("solaris", spec.solaris().is_some()),
        ("windows", spec.windows().is_some()),
        ("vm", spec.vm().is_some()),
        ("zos", spec.zos().is_some()),
    ];
    present
        .into_iter()
        .filter_map(|(field, is_there)| is_there.then_some(field))
        .collect()
}

/// The agent's form of a process.
#[must_use]
pub fn process(process: &oci::Process) -> wire::Process {
    let user = process.user();
    wire::Process {
        terminal: process.terminal().unwrap_or(false),
        console_size: process.console_size().map(|size| wire::Box {
            height: u32::try_from(size.height()).unwrap_or(u32::MAX),
            width: u32::try_from(size.width()).unwrap_or(u32::MAX),
        }),
        user: Some(wire::User {
            uid: user.uid(),
            gid: user.gid(),
            additional_gids: list(user.additional_gids()),
            username: word(user.username()),
        }),
        args: list(process.args()),
        env: list(process.env()),
        cwd: text(process.cwd()),
        capabilities: process.capabilities().as_ref().map(capabilities),
        rlimits: each(process.rlimits(), |limit| wire::PosixRlimit {
            r#type: name(&limit.typ()),
            hard: limit.hard(),
            soft: limit.soft(),
        }),
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        apparmor_profile: word(process.apparmor_profile()),
        oom_score_adj: process.oom_score_adj().unwrap_or(0).into(),
        selinux_label: word(process.selinux_label()),
        umask: user.umask(),
        scheduler: process
            .scheduler()
            .as_ref()
            .map(|scheduler| wire::Scheduler {
                policy: name(scheduler.policy()),
                nice: scheduler.nice().unwrap_or(0),
                priority: scheduler.priority().unwrap_or(0),
                flags: each(scheduler.flags(), scheduler_flag),
                runtime: scheduler.runtime().unwrap_or(0),
                deadline: scheduler.deadline().unwrap_or(0),
                period: scheduler.period().unwrap_or(0),
            }),
        io_priority: process
            .io_priority()
            .as_ref()
            .map(|priority| wire::IoPriority {
                class: name(&priority.class()),
                priority: priority.priority(),
            }),
        exec_cpu_affinity: process.exec_cpu_affinity().as_ref().map(|affinity| {
            wire::ExecCpuAffinity {
                initial: word(affinity.initial()),
                r#final: word(affinity.cpu_affinity_final()),
            }
        }),
    }
}

fn capabilities(capabilities: &oci::LinuxCapabilities) -> wire::LinuxCapabilities {
    let set = |set: &Option<oci::Capabilities>| {
        let mut names: Vec<String> = set.iter().flatten().map(name).collect();
        names.sort_unstable();
        names
    };
    wire::LinuxCapabilities {
        bounding: set(capabilities.bounding()),
        effective: set(capabilities.effective()),
        inheritable: set(capabilities.inheritable()),
        permitted: set(capabilities.permitted()),
        ambient: set(capabilities.ambient()),
    }
}

fn mount(mount: &oci::Mount) -> wire::Mount {
    wire::Mount {
        destination: text(mount.destination()),
        source: mount.source().as_deref().map(text).unwrap_or_default(),
        r#type: word(mount.typ()),
        options: list(mount.options()),
        uid_mappings: each(mount.uid_mappings(), id_mapping),
        gid_mappings: each(mount.gid_mappings(), id_mapping),
    }
}

fn id_mapping(mapping: &oci::LinuxIdMapping) -> wire::LinuxIdMapping {
    wire::LinuxIdMapping {
        host_id: mapping.host_id(),
        container_id: mapping.container_id(),
        size: mapping.size(),
    }
}

fn hooks(hooks: &oci::Hooks) -> wire::Hooks {
    let hook = |hook: &oci::Hook| wire::Hook {
        path: text(hook.path()),
        args: list(hook.args()),
        env: list(hook.env()),
        timeout: hook.timeout().unwrap_or(0),
    };
    wire::Hooks {
        prestart: each(hooks.prestart(), hook),
        poststart: each(hooks.poststart(), hook),
        poststop: each(hooks.poststop(), hook),
        create_runtime: each(hooks.create_runtime(), hook),
        create_container: each(hooks.create_container(), hook),
        start_container: each(hooks.start_container(), hook),
    }
}

fn linux(linux: &oci::Linux) -> wire::Linux {
    wire::Linux {
        uid_mappings: each(linux.uid_mappings(), id_mapping),
        gid_mappings: each(linux.gid_mappings(), id_mapping),
        sysctl: map(linux.sysctl()),
        resources: linux.resources().as_ref().map(resources),
        cgroups_path: linux
            .cgroups_path()
            .as_deref()
            .map(text)
            .unwrap_or_default(),
        namespaces: each(linux.namespaces(), |namespace| wire::LinuxNamespace {
            r#type: name(&namespace.typ()),
            path: namespace.path().as_deref().map(text).unwrap_or_default(),
        }),
        devices: each(linux.devices(), |device| wire::LinuxDevice {
            path: text(device.path()),
            r#type: device.typ().as_str().to_owned(),
            major: device.major(),
            minor: device.minor(),
            file_mode: device.file_mode().unwrap_or(0),
            uid: device.uid().unwrap_or(0),
            gid: device.gid().unwrap_or(0),
        }),
        seccomp: linux.seccomp().as_ref().map(seccomp),
        rootfs_propagation: word(linux.rootfs_propagation()),
        masked_paths: list(linux.masked_paths()),
        readonly_paths: list(linux.readonly_paths()),
        mount_label: word(linux.mount_label()),
        intel_rdt: None,
        personality: linux
            .personality()
            .as_ref()
            .map(|personality| wire::Personality {
                domain: name(&personality.domain()),
                flags: list(personality.flags()),
            }),
        time_offsets: linux
            .time_offsets()
            .iter()
            .flatten()
            .map(|(clock, offset)| {
                let secs = offset.secs().unwrap_or(0);
                let nanosecs = offset.nanosecs().unwrap_or(0);
                (clock.clone(), wire::LinuxTimeOffset { secs, nanosecs })
            })
            .collect(),
    }
}

fn seccomp(seccomp: &oci::LinuxSeccomp) -> wire::LinuxSeccomp {
    wire::LinuxSeccomp {
        default_action: name(&seccomp.default_action()),
        architectures: each(seccomp.architectures(), name),
        flags: each(seccomp.flags(), name),
        syscalls: each(seccomp.syscalls(), |rule| wire::LinuxSyscall {
            names: rule.names().clone(),
            action: name(&rule.action()),
            errno_ret: rule
                .errno_ret()
                .map(wire::linux_syscall::ErrnoRet::Errnoret),
            args: each(rule.args(), |argument| wire::LinuxSeccompArg {
                index: argument.index() as u64,
                value: argument.value(),
                value_two: argument.value_two().unwrap_or(0),
                op: name(&argument.op()),
            }),
        }),
        default_errno_ret: seccomp.default_errno_ret(),
        listener_path: seccomp
            .listener_path()
            .as_deref()
            .map(text)
            .unwrap_or_default(),
        listener_metadata: word(seccomp.listener_metadata()),
    }
}

/// Two flags have other names in the library than in the specification.
fn scheduler_flag(flag: &oci::LinuxSchedulerFlag) -> String {
    match flag {
        oci::LinuxSchedulerFlag::SchedResetOnFork => "SCHED_FLAG_RESET_ON_FORK".to_owned(),
        oci::LinuxSchedulerFlag::SchedFlagDLOverrun => "SCHED_FLAG_DL_OVERRUN".to_owned(),
        flag => name(flag),
    }
}

/// The name that a value has in config.json.
fn name<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        _ => unreachable!("every enum of the specification is a string in config.json"),
    }
}

fn text(path: impl AsRef<Path>) -> String {
    // config.json is UTF-8, so a path that came from it is.
    path.as_ref().to_string_lossy().into_owned()
}

fn word(word: &Option<String>) -> String {
    word.clone().unwrap_or_default()
}

fn list<T: Clone>(list: &Option<Vec<T>>) -> Vec<T> {
    list.clone().unwrap_or_default()
}

fn each<T, U>(list: &Option<Vec<T>>, convert: impl FnMut(&T) -> U) -> Vec<U> {
    list.iter().flatten().map(convert).collect()
}

fn map(map: &Option<std::collections::HashMap<String, String>>) -> BTreeMap<String, String> {
    map.iter()
        .flatten()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod whole;
