//! Copying files and directories between host and container, as tar archives.

mod bridge;
mod unpack;

use std::io::Write as _;
use std::path::Path;

use kata_protocol::channel::{self, Reply, Request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;

use crate::dial::{self, Channel};
use crate::error::{Context, Result};
use crate::home::Home;

/// Bytes that are read from the guest at once.
const CHUNK: usize = 64 * 1024;

/// Copies `host` into the directory `guest`.
pub(crate) async fn into(home: &Home, id: &str, host: &Path, guest: &Path) -> Result<u64> {
    let context = home.container_context("copy into container", id);
    let name = file_name(host, "host", &context)?;
    let directory = absolute(guest, &context)?;
    std::fs::symlink_metadata(host)
        .map_err(|e| context.io(format!("{} cannot be copied", host.display()), e))?;
    let request = Request::CopyIn {
        container: id.to_owned(),
        directory,
    };
    let mut stream = dial::open(home, &request, &context).await?;
    let (sink, mut chunks) = bridge::writer();
    let host = host.to_owned();
    let packing = tokio::task::spawn_blocking(move || pack(&host, &name, sink));
    let mut sent = 0;
    // The agent may give up and say why before it has read everything.
    let mut broken = None;
    while let Some(chunk) = chunks.recv().await {
        if let Err(error) = stream.write_all(&chunk).await {
            broken = Some(error);
            break;
        }
        sent += chunk.len() as u64;
    }
    drop(chunks); // ends the packing, if it has not ended
    let packed = joined(packing, &context).await?;
    if broken.is_none() {
        packed.map_err(|e| context.io("the files cannot be read", e))?;
        broken = stream.shutdown().await.err();
    }
    let reply = channel::receive::<Reply>(&mut stream).await;
    match (reply, broken) {
        (Err(_), Some(error)) => Err(context.io("the agent ended the stream", error)),
        (reply, _) => dial::accept(reply, &context).map(|()| sent),
    }
}

fn pack(host: &Path, name: &str, sink: bridge::Writer) -> std::io::Result<()> {
    let mut archive = tar::Builder::new(std::io::BufWriter::with_capacity(CHUNK, sink));
    archive.follow_symlinks(false);
    if host.symlink_metadata()?.is_dir() {
        archive.append_dir_all(name, host)?;
    } else {
        archive.append_path_with_name(host, name)?;
    }
    archive.into_inner()?.flush()
}

/// Copies `guest` into the directory `host`.
pub(crate) async fn out_of(home: &Home, id: &str, guest: &Path, host: &Path) -> Result<u64> {
    let context = home.container_context("copy out of container", id);
    let name = file_name(guest, "guest", &context)?;
    let path = absolute(guest, &context)?;
    let target = unpack::Target::new(host, &name)
        .map_err(|e| context.io(format!("cannot copy into {}", host.display()), e))?;
    let request = Request::CopyOut {
        container: id.to_owned(),
        path,
    };
    let stream = dial::open(home, &request, &context).await?;
    let (chunks, source) = bridge::reader();
    let unpacking = tokio::task::spawn_blocking(move || target.unpack(source));
    let received = relay(stream, &chunks).await;
    drop(chunks); // the end of the archive, be it whole or not
    let unpacked = joined(unpacking, &context).await?;
    let received = received.map_err(|e| context.io("the guest ended the stream", e))?;
    let unpacked = unpacked.map_err(|e| context.io("what came cannot be unpacked", e))?;
    let placed = unpacked.place();
    placed.map_err(|e| context.io(format!("cannot copy into {}", host.display()), e))?;
    Ok(received)
}

/// Passes on what comes, until the archive or the interest in it ends.
async fn relay(
    mut stream: Channel,
    chunks: &tokio::sync::mpsc::Sender<bytes::Bytes>,
) -> std::io::Result<u64> {
    let mut received = 0;
    loop {
        let mut chunk = bytes::BytesMut::with_capacity(CHUNK);
        let count = stream.read_buf(&mut chunk).await?;
        if count == 0 || chunks.send(chunk.freeze()).await.is_err() {
            return Ok(received);
        }
        received += count as u64;
    }
}

async fn joined<T>(task: JoinHandle<T>, context: &Context) -> Result<T> {
    task.await.map_err(|error| context.join(error))
}

fn file_name(path: &Path, side: &str, context: &Context) -> Result<String> {
    let name = path.file_name().and_then(|name| name.to_str());
    name.map(str::to_owned).ok_or_else(|| {
        let shown = path.display();
        context.invalid(format!(
            "the {side}'s path {shown} has no name that could be copied"
        ))
    })
}

fn absolute(path: &Path, context: &Context) -> Result<String> {
    match path.to_str() {
        Some(text) if path.is_absolute() => Ok(text.to_owned()),
        _ => Err(context.invalid(format!("{} is not an absolute path", path.display()))),
    }
}
