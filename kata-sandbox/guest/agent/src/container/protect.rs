//! Paths that a container must not see, or not change.

use std::path::Path;

use kata_protocol::ttrpc::Status;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mount::MountFlags;

use crate::files::{
    Attributes, Kind, RDONLY, Root, attach, clone_open, clone_tree, kind, name, set_attributes,
};
use crate::process::Context as _;

const READ_ONLY: Attributes = Attributes {
    set: RDONLY,
    clear: 0,
};

/// Covers what is there: files by `/dev/null`, directories by an empty one.
pub(super) fn mask(root: &Root, paths: &[String]) -> Result<(), Status> {
    for path in paths {
        let what = || format!("hide {path}");
        let target = match root.open(Path::new(path), OFlags::PATH) {
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            target => target.context(what)?,
        };
        if kind(&target).context(what)? == Kind::Directory {
            rustix::mount::mount(
                "tmpfs",
                name(&target),
                "tmpfs",
                MountFlags::RDONLY,
                c"size=0k",
            )
            .context(what)?;
        } else {
            let null = clone_tree(Path::new("/dev/null"), false).context(what)?;
            // It is the guest's and all containers': its owner and mode stay.
            set_attributes(&null, READ_ONLY, false).context(what)?;
            attach(&null, &target).context(what)?;
        }
    }
    Ok(())
}

/// Makes what is there read-only, with all that is mounted below.
pub(super) fn make_read_only(root: &Root, paths: &[String]) -> Result<(), Status> {
    for path in paths {
        let what = || format!("make {path} read-only");
        let target = match root.open(Path::new(path), OFlags::PATH) {
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            target => target.context(what)?,
        };
        let cover = clone_open(&target, true).context(what)?;
        set_attributes(&cover, READ_ONLY, true).context(what)?;
        attach(&cover, &target).context(what)?;
    }
    Ok(())
}
