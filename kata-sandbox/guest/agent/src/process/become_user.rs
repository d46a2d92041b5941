//! The last steps before a program runs: limits, user, capabilities, filter.
//!
//! The order is forced: what needs privilege comes first, what takes it away
//! last. A seccomp filter needs CAP_SYS_ADMIN unless the process may gain no
//! privileges; so it comes before the user changes, or at the very end.

use kata_protocol::agent::{PosixRlimit, Process};
use kata_protocol::ttrpc::Status;
use rustix::fs::Mode;
use rustix::process::{Gid, Uid};
use rustix::process::{Resource, Rlimit};
use rustix::thread::{
    set_keep_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use super::capability::Capabilities;
use super::failure::{Context as _, Field as _, refuse};
use super::schedule::Scheduling;
use super::user::Account;
use crate::seccomp::Filter;

/// Resource limits, checked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Limits(Vec<(Resource, Rlimit)>);

impl Limits {
    /// Checks the limits of a specification.
    ///
    /// # Errors
    /// When one does not exist, or is over its own ceiling.
    pub(crate) fn new(limits: &[PosixRlimit]) -> Result<Self, Status> {
        let limits = limits.iter().map(limit).collect::<Result<_, _>>();
        limits.map(Self).field(|| "process.rlimits")
    }

    /// Applies them to the calling process.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn apply(&self) -> Result<(), Status> {
        for (resource, limit) in &self.0 {
            rustix::process::setrlimit(*resource, *limit)
                .context(|| format!("process.rlimits: set the limit {resource:?}"))?;
        }
        Ok(())
    }
}

fn limit(limit: &PosixRlimit) -> Result<(Resource, Rlimit), Status> {
    let resource = match limit.r#type.as_str() {
        "RLIMIT_CPU" => Resource::Cpu,
        "RLIMIT_FSIZE" => Resource::Fsize,
        "RLIMIT_DATA" => Resource::Data,
        "RLIMIT_STACK" => Resource::Stack,
        "RLIMIT_CORE" => Resource::Core,
        "RLIMIT_RSS" => Resource::Rss,
        "RLIMIT_NPROC" => Resource::Nproc,
        "RLIMIT_NOFILE" => Resource::Nofile,
        "RLIMIT_MEMLOCK" => Resource::Memlock,
        "RLIMIT_AS" => Resource::As,
        "RLIMIT_LOCKS" => Resource::Locks,
        "RLIMIT_SIGPENDING" => Resource::Sigpending,
        "RLIMIT_MSGQUEUE" => Resource::Msgqueue,
        "RLIMIT_NICE" => Resource::Nice,
        "RLIMIT_RTPRIO" => Resource::Rtprio,
        "RLIMIT_RTTIME" => Resource::Rttime,
        other => return Err(refuse(format!("unknown resource limit {other:?}"))),
    };
    if limit.soft > limit.hard {
        let message = format!("{}: {} is over its ceiling", limit.r#type, limit.soft);
        return Err(refuse(message));
    }
    let value = |value| (value != u64::MAX).then_some(value);
    Ok((
        resource,
        Rlimit {
            current: value(limit.soft),
            maximum: value(limit.hard),
        },
    ))
}

/// What a process may do, as its specification says; made before the copy.
#[derive(Clone, Debug)]
pub(crate) struct Privileges {
    limits: Limits,
    capabilities: Capabilities,
    no_new_privileges: bool,
    umask: Option<u32>,
    scheduling: Scheduling,
}

impl Privileges {
    /// Checks what a specification says.
    ///
    /// # Errors
    /// When it names what does not exist.
    pub(crate) fn new(process: &Process, scheduling: Scheduling) -> Result<Self, Status> {
        if !process.apparmor_profile.is_empty() || !process.selinux_label.is_empty() {
            // A guest's kernel has no such module unless its image was built so.
            let present = std::fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
            log::debug!(modules = present.as_str(); "security labels are the host's; not applied");
        }
        Ok(Self {
            limits: Limits::new(&process.rlimits)?,
            capabilities: Capabilities::new(process.capabilities.as_ref()),
            no_new_privileges: process.no_new_privileges,
            umask: process.umask,
            scheduling,
        })
    }

    /// Makes the calling process what it is to be, but for [`Self::seal`]. `last`
    /// runs as the new user.
    ///
    /// # Errors
    /// When the kernel refuses; the message names the step.
    pub(crate) fn assume(
        &self,
        account: &Account,
        filter: Option<&Filter>,
        last: impl FnOnce() -> Result<(), Status>,
    ) -> Result<(), Status> {
        self.limits.apply()?;
        self.scheduling.apply()?;
        if let Some(umask) = self.umask {
            rustix::process::umask(Mode::from_bits_truncate(umask));
        }
        if let Some(filter) = filter.filter(|_| !self.no_new_privileges) {
            filter.install()?;
        }
        self.capabilities.bound()?;
        // Only leaving root costs capabilities.
        let leaves_root = account.uid != 0;
        if leaves_root {
            set_keep_capabilities(true).context(|| "keep the capabilities across the user")?;
        }
        become_account(account)?;
        if leaves_root {
            set_keep_capabilities(false).context(|| "stop keeping the capabilities")?;
        }
        last()?;
        self.capabilities.apply()?;
        if self.no_new_privileges {
            set_no_new_privs(true).context(|| "give up new privileges")?;
        }
        Ok(())
    }

    /// The filter that needs no privilege comes after all else: whatever is
    /// left to do would have to pass it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn seal(&self, filter: Option<&Filter>) -> Result<(), Status> {
        filter
            .filter(|_| self.no_new_privileges)
            .map_or(Ok(()), Filter::install)
    }

    /// Whether the process may look into others and change them, or a program
    /// that it becomes may.
    pub(crate) fn may_trace(&self) -> bool {
        self.capabilities.may_trace()
    }
}

fn become_account(account: &Account) -> Result<(), Status> {
    const KEEP: u32 = u32::MAX;
    if account.uid == KEEP || account.gid == KEEP || account.groups.contains(&KEEP) {
        return Err(refuse(format!("{KEEP} is no id of a user or group")));
    }
    let groups: Vec<Gid> = account
        .groups
        .iter()
        .map(|gid| Gid::from_raw(*gid))
        .collect();
    set_thread_groups(&groups).context(|| "set the supplementary groups")?;
    let gid = Gid::from_raw(account.gid);
    set_thread_res_gid(gid, gid, gid).context(|| format!("become group {}", account.gid))?;
    let uid = Uid::from_raw(account.uid);
    set_thread_res_uid(uid, uid, uid).context(|| format!("become user {}", account.uid))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rlimit(name: &str, soft: u64, hard: u64) -> PosixRlimit {
        PosixRlimit {
            r#type: name.into(),
            hard,
            soft,
        }
    }

    #[test]
    fn limits_without_end_are_none() {
        let limits = Limits::new(&[rlimit("RLIMIT_CORE", 0, u64::MAX)]).unwrap();
        let (resource, limit) = &limits.0[0];
        assert_eq!(*resource, Resource::Core);
        assert_eq!((limit.current, limit.maximum), (Some(0), None));
    }

    #[test]
    fn impossible_limits_are_refused() {
        assert!(Limits::new(&[rlimit("RLIMIT_FUN", 0, 0)]).is_err());
        assert!(Limits::new(&[rlimit("RLIMIT_CORE", 2, 1)]).is_err());
    }
}
