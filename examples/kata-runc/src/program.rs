//! Whether the program that a container is to run is there: engines want to be
//! told when the container is made, in runc's words.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use kata_sandbox::oci;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};

use crate::failure::{Failure, Result, errno_text};

/// Where programs are looked for when the environment does not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Looks for the program in the root file system. Passes what may be in one of
/// the mounts, which only the guest can tell.
///
/// # Errors
/// When it is not there, or cannot be executed.
pub(crate) fn check(rootfs: &Path, spec: &oci::Spec) -> Result<()> {
    let Some(process) = spec.process() else {
        return Ok(());
    };
    let Some(name) = process.args().iter().flatten().next() else {
        return Ok(());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(root) = openat(CWD, rootfs, flags, Mode::empty()) else {
        return Ok(()); // said by whoever uses it
    };
    let mounts: Vec<&Path> = spec
        .mounts()
        .iter()
        .flatten()
        .map(|mount| mount.destination().as_path())
        .collect();
    let cannot = |reason: String| {
        Err(Failure::new(format!(
            "unable to start container process: exec: {name:?}: {reason}"
        )))
    };
    if name.contains('/') {
        let path = process.cwd().join(name);
        if below_any(&mounts, &path) {
            return Ok(());
        }
        return match executable(&root, &path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                cannot("permission denied".to_owned())
            }
            Err(error) => cannot(format!("stat {name}: {}", errno_text(&error))),
        };
    }
    let mut directories = search_path(process);
    let found = directories.any(|directory| {
        let path = directory.join(name);
        below_any(&mounts, &path) || executable(&root, &path).is_ok()
    });
    if found {
        return Ok(());
    }
    cannot("executable file not found in $PATH".to_owned())
}

fn search_path(process: &oci::Process) -> impl Iterator<Item = PathBuf> {
    let env = process.env().iter().flatten();
    let path = env
        .filter_map(|entry| entry.strip_prefix("PATH="))
        .next_back();
    let path = path.unwrap_or(PATH).to_owned();
    let cwd = process.cwd().clone();
    path.split(':')
        .map(|directory| cwd.join(directory))
        .collect::<Vec<_>>()
        .into_iter()
}

fn below_any(mounts: &[&Path], path: &Path) -> bool {
    mounts.iter().any(|mount| path.starts_with(mount))
}

/// Whether a path in the root file system is a file that somebody may execute.
fn executable(root: &OwnedFd, path: &Path) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let found = openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)?;
    let metadata = File::from(found).metadata()?;
    if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 {
        return Ok(());
    }
    Err(io::ErrorKind::PermissionDenied.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(process: &str, mounts: &str) -> Option<String> {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("usr/bin")).unwrap();
        std::os::unix::fs::symlink("/usr/bin", root.path().join("bin")).unwrap();
        std::fs::copy("/bin/true", root.path().join("usr/bin/true")).unwrap();
        std::fs::write(root.path().join("usr/bin/data"), "").unwrap();
        let json = format!(
            "{{\"ociVersion\": \"1.0.2\", \"mounts\": [{mounts}], \"process\": {{\"cwd\": \"/\", \
             \"user\": {{\"uid\": 0, \"gid\": 0}}, {process}}}}}"
        );
        let spec = serde_json::from_str(&json).unwrap();
        check(root.path(), &spec).err().map(|it| it.to_string())
    }

    #[test]
    fn a_program_is_found_by_path_and_by_name_through_the_containers_own_links() {
        assert_eq!(fault("\"args\": [\"/bin/true\"]", ""), None);
        assert_eq!(fault("\"args\": [\"true\"]", ""), None);
        assert_eq!(fault("\"args\": [\"usr/bin/true\"]", ""), None);
    }

    #[test]
    fn what_is_not_there_is_told_in_the_words_that_engines_know() {
        let text = fault("\"args\": [\"/nosuch\"]", "").unwrap();
        assert!(
            text.contains("exec: \"/nosuch\": stat /nosuch: no such file"),
            "{text}"
        );
        let text = fault("\"args\": [\"nosuch\"]", "").unwrap();
        assert!(
            text.contains("executable file not found in $PATH"),
            "{text}"
        );
        let text = fault("\"args\": [\"/bin/data\"]", "").unwrap();
        assert!(text.contains("permission denied"), "{text}");
        let text = fault("\"args\": [\"true\"], \"env\": [\"PATH=/sbin\"]", "").unwrap();
        assert!(text.contains("not found in $PATH"), "{text}");
    }

    #[test]
    fn what_may_be_in_a_mount_is_left_to_the_guest() {
        let mount = "{\"destination\": \"/opt\", \"type\": \"bind\", \"source\": \"/srv\"}";
        assert_eq!(fault("\"args\": [\"/opt/tool\"]", mount), None);
    }
}
