//! A macvtap on the link.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, makedev, mknodat};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::UnshareFlags;

use super::{Wiring, name_beside};
use crate::endpoint::Attachment;
use crate::error::{Error, Result};
use crate::rtnl::{Link, Rtnl};
use crate::tap;

/// A macvtap in passthrough mode on the link.
#[derive(Clone, Copy, Debug)]
pub(super) struct Macvtap;

impl Wiring for Macvtap {
    fn connect(&self, rtnl: &mut Rtnl, link: &Link, queues: usize) -> Result<Attachment> {
        let name = name_beside(link);
        let failed = |what: &str| Error::host(format!("{what} {name} on {}", link.name));
        link.add_macvtap(rtnl, &name)
            .map_err(failed("make the macvtap"))?;
        let made = Link::find(rtnl, &name).map_err(failed("find the macvtap"))?;
        made.bring_up(rtnl)
            .map_err(failed("bring up the macvtap"))?;
        let taps = open(&made, queues).map_err(failed("open the macvtap"))?;
        Ok(Attachment::Tap(taps))
    }
}

/// Opens so many queues of a macvtap of the calling thread's namespace. Its
/// character device is known by the namespace's own sysfs alone, so the thread
/// gets a mount namespace with that mounted.
pub(super) fn open(link: &Link, queues: usize) -> io::Result<Vec<OwnedFd>> {
    tap::unshare_thread(UnshareFlags::NEWNS)?;
    mount_change(
        "/",
        MountPropagationFlags::REC | MountPropagationFlags::DOWNSTREAM,
    )?;
    mount("sysfs", "/sys", "sysfs", MountFlags::empty(), None)?;
    let class = format!("/sys/class/net/{}/{}{}/dev", link.name, "tap", link.index);
    let number = std::fs::read_to_string(class)?;
    let (major, minor) = number
        .trim()
        .split_once(':')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))
        .ok_or_else(|| io::Error::other(format!("{number:?} is no device number")))?;
    // A node of its own, for as long as it takes to open it: `/dev` need not
    // show what other namespaces have.
    mount("tmpfs", "/sys", "tmpfs", MountFlags::empty(), None)?;
    let node = Path::new("/sys/tap");
    mknodat(
        rustix::fs::CWD,
        node,
        FileType::CharacterDevice,
        Mode::RUSR | Mode::WUSR,
        makedev(major, minor),
    )?;
    (0..queues).map(|_| open_queue(node, queues > 1)).collect()
}

fn open_queue(node: &Path, several: bool) -> io::Result<OwnedFd> {
    let file = File::options()
        .read(true)
        .write(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(node)?;
    tap::set_flags(&file, several)?;
    Ok(file.into())
}
