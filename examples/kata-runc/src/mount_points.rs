//! Places for mounts in a root file system that the guest cannot write.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use kata_sandbox::oci;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};
use rustix::io::Errno;

use crate::failure::{Failure, Result};

/// Makes the directories and files that a read-only root file system lacks for
/// the mounts of a specification, on the host, as runc does. Those that are
/// below another mount are the guest's to make.
///
/// # Errors
/// When one cannot be made.
pub(crate) fn make(bundle: &Path, rootfs: &Path, spec: &oci::Spec) -> Result<()> {
    let read_only = spec.root().as_ref().and_then(oci::Root::readonly);
    if !read_only.unwrap_or(false) {
        return Ok(());
    }
    let failed = |path: &Path, error: &io::Error| Failure::io("mkdir", path, error);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root =
        openat(CWD, rootfs, flags, Mode::empty()).map_err(|error| failed(rootfs, &error.into()))?;
    let mut covered: Vec<&Path> = Vec::new();
    for mount in spec.mounts().iter().flatten() {
        let destination = mount.destination().as_path();
        if !covered.iter().any(|above| destination.starts_with(above)) {
            let file = is_file(bundle, mount);
            place(&root, destination, file).map_err(|error| failed(destination, &error))?;
        }
        covered.push(destination);
    }
    Ok(())
}

fn is_file(bundle: &Path, mount: &oci::Mount) -> bool {
    let bind = |option: &String| option == "bind" || option == "rbind";
    let bind = mount.options().iter().flatten().any(bind);
    let source = mount.source().as_ref().filter(|_| bind);
    source.is_some_and(|source| bundle.join(source).is_file())
}

/// Makes what is missing of a path, whatever links the root file system has:
/// none leads out of it.
fn place(root: &OwnedFd, path: &Path, file: bool) -> io::Result<()> {
    let names: Vec<_> = path
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name),
            _ => None,
        })
        .collect();
    let mut below = std::path::PathBuf::from("/");
    for (index, name) in names.iter().enumerate() {
        let parent = within(root, &below)?;
        below.push(name);
        match within(root, &below) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if file && index + 1 == names.len() {
                    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                    let made = openat(&parent, *name, flags, Mode::from_raw_mode(0o644));
                    drop(File::from(made?));
                } else {
                    match mkdirat(&parent, *name, Mode::from_raw_mode(0o755)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn within(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let opened = openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT);
    Ok(opened?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(read_only: bool) -> oci::Spec {
        let json = format!(
            "{{\"ociVersion\": \"1.0.2\", \"root\": {{\"path\": \"r\", \"readonly\": {read_only}}}, \
             \"mounts\": [{{\"destination\": \"/dev\", \"type\": \"tmpfs\"}}, \
             {{\"destination\": \"/dev/pts\", \"type\": \"devpts\"}}, \
             {{\"destination\": \"/link/a/b\", \"type\": \"tmpfs\"}}, \
             {{\"destination\": \"/etc/hosts\", \"source\": \"file\", \"options\": [\"bind\"]}}]}}"
        );
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn what_a_read_only_root_lacks_is_made_inside_it() {
        let bundle = tempfile::tempdir().unwrap();
        let root = bundle.path().join("r");
        std::fs::create_dir_all(root.join("real")).unwrap();
        std::fs::write(bundle.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink("/../real", root.join("link")).unwrap();
        make(bundle.path(), &root, &spec(true)).unwrap();
        assert!(root.join("dev").is_dir() && root.join("real/a/b").is_dir());
        assert!(root.join("etc/hosts").is_file());
        assert!(!root.join("dev/pts").exists());
    }

    #[test]
    fn a_root_that_can_be_written_is_the_guests_to_fill() {
        let bundle = tempfile::tempdir().unwrap();
        let root = bundle.path().join("r");
        std::fs::create_dir(&root).unwrap();
        make(bundle.path(), &root, &spec(false)).unwrap();
        assert_eq!(std::fs::read_dir(root).unwrap().count(), 0);
    }
}
