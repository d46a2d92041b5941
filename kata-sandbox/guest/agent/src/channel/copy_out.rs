//! Packing a file or a directory of a container.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, BufWriter, Read as _, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use kata_protocol::channel::{self, Reply};
use tar::{Builder, EntryType, Header, HeaderMode};
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

/// Writes an archive of `path` under `name`. What is packed may change
/// meanwhile, at the container's will: the archive stays one.
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
        if kind.is_file() {
            append_file(&mut builder, &path, &name)?;
        } else {
            append_other(&mut builder, &path, &name)?;
        }
        if kind.is_dir() {
            for entry in fs::read_dir(&path)? {
                let entry = entry?;
                pending.push((entry.path(), name.join(entry.file_name())));
            }
        }
    }
    builder.into_inner()?.flush()
}

/// Appends a regular file: exactly as many bytes as its header says, whatever
/// becomes of it while it is read.
fn append_file(builder: &mut Builder<impl Write>, path: &Path, name: &Path) -> io::Result<()> {
    // By now it may be a link, or a pipe that nobody writes to.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(changed(path));
    }
    append_bytes(builder, &metadata, file, name)
}

fn append_bytes(
    builder: &mut Builder<impl Write>,
    metadata: &Metadata,
    bytes: impl io::Read,
    name: &Path,
) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_metadata(metadata);
    // What it no longer has is zeroes, as a hole is.
    let mut exactly = bytes.chain(io::repeat(0)).take(metadata.len());
    builder.append_data(&mut header, name, &mut exactly)
}

/// Appends what has a header and no bytes: nothing is opened for it.
fn append_other(builder: &mut Builder<impl Write>, path: &Path, name: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    let mut header = Header::new_gnu();
    header.set_metadata(&metadata);
    match header.entry_type() {
        // It became one just now.
        EntryType::Regular => Err(changed(path)),
        EntryType::Symlink => builder.append_link(&mut header, name, fs::read_link(path)?),
        EntryType::Char | EntryType::Block => {
            use std::os::unix::fs::MetadataExt as _;
            let device = metadata.rdev();
            header.set_device_major(rustix::fs::major(device))?;
            header.set_device_minor(rustix::fs::minor(device))?;
            builder.append_data(&mut header, name, io::empty())
        }
        _ => builder.append_data(&mut header, name, io::empty()),
    }
}

fn changed(path: &Path) -> io::Error {
    io::Error::other(format!("{} changed while it was packed", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// The names and contents of an archive's entries.
    fn entries(archive: &[u8]) -> Vec<(String, Vec<u8>)> {
        let mut archive = tar::Archive::new(archive);
        let read = |entry: io::Result<tar::Entry<'_, _>>| {
            let mut entry: tar::Entry<'_, &[u8]> = entry.unwrap();
            let name = entry.path().unwrap().to_string_lossy().into_owned();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            (name, bytes)
        };
        archive.entries().unwrap().map(read).collect()
    }

    #[test]
    fn a_file_has_the_size_its_header_says_whatever_becomes_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        fs::write(&path, "1234").unwrap();
        let metadata = fs::metadata(&path).unwrap();
        // An entry of its own, were it taken as the archive's.
        let mut grown = b"1234".to_vec();
        grown.extend(vec![b'x'; 2000]);
        let mut builder = Builder::new(Vec::new());
        append_bytes(
            &mut builder,
            &metadata,
            grown.as_slice(),
            Path::new("grown"),
        )
        .unwrap();
        append_bytes(&mut builder, &metadata, &b"1"[..], Path::new("shrunk")).unwrap();
        let archive = builder.into_inner().unwrap();
        let expected = [("grown", &b"1234"[..]), ("shrunk", b"1\0\0\0")];
        let expected = expected.map(|(name, bytes)| (name.to_owned(), bytes.to_vec()));
        assert_eq!(entries(&archive), expected);
    }

    #[test]
    fn what_is_no_file_any_more_is_not_opened_as_one() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        let mut builder = Builder::new(Vec::new());
        let error = append_file(&mut builder, &fifo, Path::new("x")).unwrap_err();
        assert!(error.to_string().contains("changed"), "{error}");
        assert!(append_file(&mut builder, &link, Path::new("x")).is_err());
        // As what they are, they are packed.
        append_other(&mut builder, &fifo, Path::new("fifo")).unwrap();
        append_other(&mut builder, &link, Path::new("link")).unwrap();
        let archive = builder.into_inner().unwrap();
        let names: Vec<_> = entries(&archive)
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, ["fifo", "link"]);
    }

    #[test]
    fn a_long_name_and_a_device_survive() {
        let directory = tempfile::tempdir().unwrap();
        let long = "n".repeat(200);
        fs::write(directory.path().join(&long), "x").unwrap();
        let mut builder = Builder::new(Vec::new());
        append_file(
            &mut builder,
            &directory.path().join(&long),
            Path::new(&long),
        )
        .unwrap();
        append_other(&mut builder, Path::new("/dev/null"), Path::new("null")).unwrap();
        let bytes = builder.into_inner().unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut all = archive.entries().unwrap();
        assert_eq!(
            all.next().unwrap().unwrap().path().unwrap(),
            Path::new(&long)
        );
        let null = all.next().unwrap().unwrap();
        let numbers = (null.header().device_major(), null.header().device_minor());
        assert_eq!((numbers.0.unwrap(), numbers.1.unwrap()), (Some(1), Some(3)));
    }

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
