//! Packing a file or a directory of a container.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use kata_protocol::channel::{self, Reply};
use tar::{Builder, HeaderMode};
use tokio::io::{AsyncWriteExt as _, BufReader};

use super::{refuse, with_stream};
use crate::container::Containers;
use crate::transport::Stream;

/// Bytes gathered before they are sent.
const BUFFER: usize = 64 * 1024;

/// Sends what is at `path`. An archive whose end is missing tells the host that
/// it failed on the way.
pub(super) async fn copy(
    containers: &Rc<Containers>,
    mut stream: BufReader<Stream>,
    container: &str,
    path: String,
) -> io::Result<()> {
    let wanted = path.clone();
    let there = containers
        .in_container(container, &[], || check(Path::new(&wanted)).map(drop))
        .await;
    if let Err(status) = there {
        return refuse(&mut stream, status.message).await;
    }
    channel::send(&mut stream, &Reply::Ok).await?;
    let work = |file: BorrowedFd<'_>| {
        let name = check(Path::new(&path))?;
        let file = file
            .try_clone_to_owned()
            .map_err(|error| error.to_string())?;
        let sink = BufWriter::with_capacity(BUFFER, File::from(file));
        pack(sink, Path::new(&path), &name).map_err(|error| format!("cannot pack {path}: {error}"))
    };
    if let Err(status) = with_stream(containers, &stream, container, work).await? {
        log::warn!(container, error:% = status; "a copy out of a container failed");
    }
    stream.shutdown().await
}

/// The name that the archive's top-level entry has.
fn check(path: &Path) -> Result<OsString, String> {
    if !path.is_absolute() {
        return Err(format!("{} is not an absolute path", path.display()));
    }
    fs::symlink_metadata(path)
        .map_err(|error| format!("cannot use {}: {error}", path.display()))?;
    path.file_name()
        .map(ToOwned::to_owned)
        .ok_or_else(|| format!("{} has no name to copy it by", path.display()))
}

/// Writes an archive of `path` under `name`.
fn pack(sink: impl Write, path: &Path, name: &OsString) -> io::Result<()> {
    let mut builder = Builder::new(sink);
    builder.mode(HeaderMode::Complete);
    builder.follow_symlinks(false);
    // Depth first, without recursion: directories may be nested at will.
    let mut pending = vec![(path.to_owned(), PathBuf::from(name))];
    while let Some((path, name)) = pending.pop() {
        let kind = fs::symlink_metadata(&path)?.file_type();
        if kind.is_socket() {
            // An archive cannot hold it, and it is of no use elsewhere.
            continue;
        }
        builder.append_path_with_name(&path, &name)?;
        if kind.is_dir() {
            for entry in fs::read_dir(&path)? {
                let entry = entry?;
                pending.push((entry.path(), name.join(entry.file_name())));
            }
        }
    }
    builder.into_inner()?.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_tree_is_packed_under_its_last_name() {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path().join("top");
        fs::create_dir_all(top.join("sub")).unwrap();
        fs::write(top.join("sub/file"), "x").unwrap();
        std::os::unix::fs::symlink("/etc", top.join("link")).unwrap();
        let _socket = UnixListener::bind(top.join("socket")).unwrap();
        let mut bytes = Vec::new();
        pack(&mut bytes, &top, &check(&top).unwrap()).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut names: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                entry
                    .unwrap()
                    .path()
                    .unwrap()
                    .to_string_lossy()
                    .into_owned()
            })
            .map(|name| name.trim_end_matches('/').to_owned())
            .collect();
        names.sort();
        assert_eq!(names, ["top", "top/link", "top/sub", "top/sub/file"]);
    }

    #[test]
    fn what_has_no_name_or_is_not_there_is_refused() {
        assert!(check(Path::new("/")).is_err());
        assert!(check(Path::new("etc")).is_err());
        assert!(check(Path::new("/no/such/file")).is_err());
    }
}
