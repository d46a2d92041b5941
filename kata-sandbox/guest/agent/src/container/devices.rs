//! Device nodes of a container.

use std::path::Path;

use kata_protocol::agent::LinuxDevice;
use kata_protocol::ttrpc::Status;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, makedev, mknodat, statat, unlinkat};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use crate::files::{Kind, Root, attach, clone_open, clone_tree};
use crate::process::{Context as _, refuse};

/// Every container's: path, major and minor.
const ALWAYS: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

const LINKS: [(&str, &str); 5] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
];

/// A node to be made.
#[derive(Debug)]
struct Node<'a> {
    path: &'a Path,
    kind: FileType,
    device: u64,
    mode: Mode,
    owner: (u32, u32),
}

/// Makes every container's nodes and links, and those asked for. In a user
/// namespace, where none can be made, the guest's are shown instead.
pub(super) fn make_all(
    root: &Root,
    devices: &[LinuxDevice],
    in_user_namespace: bool,
) -> Result<(), Status> {
    let always = ALWAYS.iter().map(|(path, major, minor)| Node {
        path: Path::new(path),
        kind: FileType::CharacterDevice,
        device: makedev(*major, *minor),
        mode: Mode::from(0o666),
        owner: (0, 0),
    });
    for node in always {
        make(root, &node, in_user_namespace)?;
    }
    for device in devices {
        make(root, &node(device)?, in_user_namespace)?;
    }
    for (path, target) in LINKS {
        let (directory, name) = root.parent(Path::new(path))?;
        match rustix::fs::symlinkat(target, &directory, name) {
            // An image may have its own; in a /dev that is the guest's it is fine.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error).context(|| format!("make {path}")),
        }
    }
    Ok(())
}

fn node(device: &LinuxDevice) -> Result<Node<'_>, Status> {
    let path = Path::new(&device.path);
    if !path.is_absolute() {
        return Err(refuse(format!("the device path {path:?} is not absolute")));
    }
    let kind = match device.r#type.as_str() {
        "c" | "u" => FileType::CharacterDevice,
        "b" => FileType::BlockDevice,
        "p" => FileType::Fifo,
        other => {
            return Err(refuse(format!(
                "{path:?}: unknown kind of device {other:?}"
            )));
        }
    };
    let number = |number: i64| {
        u32::try_from(number).map_err(|_| refuse(format!("{path:?}: {number} is no device number")))
    };
    let device_number = makedev(number(device.major)?, number(device.minor)?);
    let mode = if device.file_mode == 0 {
        0o666
    } else {
        device.file_mode & 0o7777
    };
    let owner = (device.uid, device.gid);
    Ok(Node {
        path,
        kind,
        device: device_number,
        mode: Mode::from(mode),
        owner,
    })
}

fn make(root: &Root, node: &Node<'_>, in_user_namespace: bool) -> Result<(), Status> {
    let what = || format!("make the device {}", node.path.display());
    if in_user_namespace {
        let source = clone_tree(node.path, false).context(what)?;
        let target = root.open_or_make(node.path, Kind::File)?;
        return attach(&source, &target).context(what);
    }
    let (directory, name) = root.parent(node.path)?;
    loop {
        match mknodat(&directory, name, node.kind, node.mode, node.device) {
            Err(Errno::EXIST) => {
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                let there = statat(&directory, name, flags).context(what)?;
                if there.st_rdev == node.device
                    && FileType::from_raw_mode(there.st_mode) == node.kind
                {
                    return Ok(());
                }
                unlinkat(&directory, name, AtFlags::empty()).context(what)?;
            }
            result => {
                result.context(what)?;
                break;
            }
        }
    }
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    let (uid, gid) = (Uid::from_raw(node.owner.0), Gid::from_raw(node.owner.1));
    if node.owner != (0, 0) {
        rustix::fs::chownat(&directory, name, Some(uid), Some(gid), flags).context(what)?;
    }
    Ok(())
}

/// Shows the process's terminal as `/dev/console`.
pub(super) fn console(slave: impl std::os::fd::AsFd) -> Result<(), Status> {
    let what = || "make /dev/console";
    let open = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = Root(rustix::fs::open("/", open, Mode::empty()).context(what)?);
    let target = root.open_or_make(Path::new("/dev/console"), Kind::File)?;
    attach(clone_open(slave, false).context(what)?, &target).context(what)
}
