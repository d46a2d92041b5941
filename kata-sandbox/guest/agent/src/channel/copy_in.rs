//! Unpacking an archive in a container.
//!
//! The archive comes from the host, and what is in the container's directory
//! from the container: the work is done by a child that has the container's
//! root, so that nothing outside is within reach, and a path that leaves the
//! directory is refused all the same.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::rc::Rc;

use kata_protocol::channel::{self, Reply};
use tar::Archive;
use tokio::io::BufReader;

use super::{refuse, report, with_stream};
use crate::container::Containers;
use crate::transport::Stream;

/// Unpacks what the host sends into `directory`.
pub(super) async fn copy(
    containers: &Rc<Containers>,
    mut stream: BufReader<Stream>,
    container: &str,
    directory: String,
) -> io::Result<()> {
    let wanted = directory.clone();
    let there = containers
        .in_container(container, &[], || check(Path::new(&wanted)))
        .await;
    if let Err(status) = there {
        return refuse(&mut stream, status.message).await;
    }
    channel::send(&mut stream, &Reply::Ok).await?;
    let early = stream.buffer().to_vec();
    let work = |file: BorrowedFd<'_>| {
        let file = file
            .try_clone_to_owned()
            .map_err(|error| error.to_string())?;
        let mut archive = early.as_slice().chain(File::from(file));
        unpack(&mut archive, Path::new(&directory))
            .map_err(|error| format!("cannot unpack in {directory}: {}", causes(&error)))
    };
    let result = with_stream(containers, &stream, container, work).await?;
    report(&mut stream, result).await
}

fn check(directory: &Path) -> Result<(), String> {
    if !directory.is_absolute() {
        return Err(format!("{} is not an absolute path", directory.display()));
    }
    match std::fs::metadata(directory) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(format!("{} is not a directory", directory.display())),
        Err(error) => Err(format!("cannot use {}: {error}", directory.display())),
    }
}

/// Unpacks an archive with its modes, owners and times, and reads to its end.
fn unpack(source: &mut impl Read, directory: &Path) -> io::Result<()> {
    let mut archive = Archive::new(&mut *source);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(true);
    archive.set_preserve_mtime(true);
    // A directory that must not be written to is made so when all is in it.
    let mut directories = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        if entry.header().entry_type().is_dir() {
            directories.push(entry);
        } else {
            unpack_entry(&mut entry, directory)?;
        }
    }
    directories.sort_by(|a, b| b.path_bytes().cmp(&a.path_bytes()));
    for mut entry in directories {
        unpack_entry(&mut entry, directory)?;
    }
    io::copy(source, &mut io::sink())?;
    Ok(())
}

fn unpack_entry(entry: &mut tar::Entry<'_, impl Read>, directory: &Path) -> io::Result<()> {
    if entry.unpack_in(directory)? {
        return Ok(());
    }
    let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
    Err(io::Error::other(format!(
        "{path:?} leads out of the directory"
    )))
}

/// The library keeps the reason in the source of its errors.
fn causes(error: &io::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use tar::{Builder, EntryType, Header};

    fn header(kind: EntryType, mode: u32, size: usize) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size as u64);
        header.set_uid(u64::from(rustix::process::getuid().as_raw()));
        header.set_gid(u64::from(rustix::process::getgid().as_raw()));
        header.set_mtime(1);
        header
    }

    #[test]
    fn modes_and_links_arrive() {
        let mut builder = Builder::new(Vec::new());
        let mut directory = header(EntryType::Directory, 0o500, 0);
        builder
            .append_data(&mut directory, "d", io::empty())
            .unwrap();
        let mut file = header(EntryType::Regular, 0o4711, 2);
        builder.append_data(&mut file, "d/f", &b"hi"[..]).unwrap();
        let mut link = header(EntryType::Symlink, 0o777, 0);
        builder.append_link(&mut link, "d/l", "f").unwrap();
        let bytes = builder.into_inner().unwrap();
        let target = tempfile::tempdir().unwrap();

        unpack(&mut bytes.as_slice(), target.path()).unwrap();

        let mode = |name: &str| {
            let metadata = std::fs::metadata(target.path().join(name)).unwrap();
            metadata.permissions().mode() & 0o7777
        };
        assert_eq!(mode("d"), 0o500);
        assert_eq!(mode("d/f"), 0o4711);
        assert_eq!(std::fs::read(target.path().join("d/l")).unwrap(), b"hi");
        std::fs::set_permissions(
            target.path().join("d"),
            std::fs::Permissions::from_mode(0o700),
        )
        .unwrap();
    }

    #[test]
    fn a_path_that_leads_out_is_refused() {
        let mut evil = header(EntryType::Regular, 0o644, 1);
        evil.as_gnu_mut().unwrap().name[..4].copy_from_slice(b"../x");
        evil.set_cksum();
        let mut builder = Builder::new(Vec::new());
        builder.append(&evil, &b"x"[..]).unwrap();
        let bytes = builder.into_inner().unwrap();
        let outer = tempfile::tempdir().unwrap();
        let target = outer.path().join("in");
        std::fs::create_dir(&target).unwrap();
        let error = unpack(&mut bytes.as_slice(), &target).unwrap_err();
        assert!(error.to_string().contains("leads out"));
        assert!(!outer.path().join("x").exists());
    }

    #[test]
    fn a_link_planted_by_the_archive_is_not_followed_out() {
        let outside = tempfile::tempdir().unwrap();
        let mut builder = Builder::new(Vec::new());
        let mut link = header(EntryType::Symlink, 0o777, 0);
        builder
            .append_link(&mut link, "way", outside.path())
            .unwrap();
        let mut file = header(EntryType::Regular, 0o644, 1);
        builder.append_data(&mut file, "way/x", &b"x"[..]).unwrap();
        let bytes = builder.into_inner().unwrap();
        let target = tempfile::tempdir().unwrap();
        assert!(unpack(&mut bytes.as_slice(), target.path()).is_err());
        assert!(!outside.path().join("x").exists());
    }

    #[test]
    fn a_cut_archive_is_an_error() {
        let mut builder = Builder::new(Vec::new());
        let mut file = header(EntryType::Regular, 0o644, 2000);
        builder.append_data(&mut file, "f", &[7; 2000][..]).unwrap();
        let bytes = builder.into_inner().unwrap();
        let target = tempfile::tempdir().unwrap();
        assert!(unpack(&mut &bytes[..1000], target.path()).is_err());
    }
}
