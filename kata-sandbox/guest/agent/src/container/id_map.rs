//! Mappings of user and group ids.

use std::fmt::Write as _;
use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};

use kata_protocol::agent::LinuxIdMapping;
use kata_protocol::ttrpc::Status;
use rustix::pipe::PipeFlags;
use rustix::process::Pid;

use crate::process::{Context as _, Copy, clone_self};

/// Sets the mappings of a process in a new user namespace, from outside it.
///
/// # Errors
/// When they overlap, or map what is not the writer's.
pub(super) fn write(
    pid: Pid,
    uids: &[LinuxIdMapping],
    gids: &[LinuxIdMapping],
) -> Result<(), Status> {
    for (file, mappings) in [("uid_map", uids), ("gid_map", gids)] {
        std::fs::write(
            format!("/proc/{}/{file}", pid.as_raw_nonzero()),
            text(mappings),
        )
        .context(|| format!("set the {file} of a user namespace"))?;
    }
    Ok(())
}

/// A user namespace with these mappings, in which no process is.
///
/// # Errors
/// When the mappings are wrong or the kernel has no user namespaces.
pub(super) fn namespace(
    uids: &[LinuxIdMapping],
    gids: &[LinuxIdMapping],
) -> Result<OwnedFd, Status> {
    let (wait, hold) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).context(|| "make a pipe")?;
    let copy = Copy {
        namespaces: libc::CLONE_NEWUSER,
        keep: vec![wait.as_raw_fd()],
        ..Copy::default()
    };
    let child = clone_self(&copy, || {
        // Until the namespace is open elsewhere, or the agent is gone.
        i32::from(rustix::io::read(&wait, &mut [0]).is_err())
    })
    .context(|| "make a user namespace")?;
    let opened = write(child.pid(), uids, gids).and_then(|()| {
        File::open(format!("/proc/{}/ns/user", child.pid().as_raw_nonzero()))
            .context(|| "open a user namespace")
    });
    drop(hold);
    Ok(opened?.into())
}

fn text(mappings: &[LinuxIdMapping]) -> String {
    mappings.iter().fold(String::new(), |mut text, mapping| {
        let LinuxIdMapping {
            container_id,
            host_id,
            size,
        } = mapping;
        writeln!(text, "{container_id} {host_id} {size}").expect("a string takes all");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_written_container_first() {
        let mapping = LinuxIdMapping {
            host_id: 100_000,
            container_id: 0,
            size: 65_536,
        };
        assert_eq!(text(&[mapping]), "0 100000 65536\n");
    }
}
