//! The agent at work: listening, announcing itself, going down.

use std::future::Future;
use std::io;
use std::rc::Rc;

use kata_protocol::port;
use rustix::io::Errno;
use tokio::task::{JoinSet, spawn_local};

use crate::config::{Config, ServerAddress};
use crate::container::{Config as ContainersConfig, Containers};
use crate::logging::Log;
use crate::service::Agent;
use crate::stdio::Streams;
use crate::transport::{Dial, Listener, Stream};
use crate::uevent::Uevents;
use crate::{boot, channel, connection, console, logging};

/// Why the agent cannot serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// A port cannot be listened on.
    #[error("cannot listen on port {port} of {server:?}")]
    Listen {
        server: ServerAddress,
        port: u32,
        source: io::Error,
    },
    /// The calls' socket failed.
    #[error("cannot accept connections on {server:?}")]
    Accept {
        server: ServerAddress,
        source: io::Error,
    },
    /// Containers cannot be run here.
    #[error("cannot run containers")]
    Containers { source: io::Error },
    /// The rest of the boot failed.
    #[error(transparent)]
    Boot(#[from] boot::BootError),
}

/// Serves until DestroySandbox.
pub(crate) async fn serve(config: Config, init: bool, log: &'static Log) -> Result<(), ServeError> {
    let server = config.server.clone();
    let listener = Listener::bind_server(&server).map_err(|source| ServeError::Listen {
        server: server.clone(),
        port: port::AGENT,
        source,
    })?;
    let channel = bind(&server, port::CHANNEL)?;
    let streams = Streams::new();
    if let ServerAddress::Vsock { .. } = server {
        streams
            .listen_vsock(config.stdio_port)
            .map_err(|source| ServeError::Listen {
                server: server.clone(),
                port: config.stdio_port,
                source,
            })?;
    }
    // From here on the host may hear of us; the rest of the boot is done while
    // it does, and before anything it says is read.
    let dial = Announcement::start(&server);
    log::debug!(uptime_us = uptime(); "listening");
    if init {
        boot::complete()?;
        log::debug!(uptime_us = uptime(); "booted");
    }
    let containers = Containers::new(ContainersConfig {
        cgroup_root: "/sys/fs/cgroup".into(),
        pipe_size: config.pipe_size,
        streams,
    })
    .map_err(|source| ServeError::Containers { source })?;
    if let Some(port) = config.log_port {
        let listener = bind(&server, port)?;
        detach(port, logging::serve(log, listener));
    }
    if let Some(port) = config.debug_console {
        detach(port, console::serve(bind(&server, port)?));
    }
    let agent = Agent::new(config, init, containers);
    detach(
        port::CHANNEL,
        channel::serve(Rc::clone(&agent.containers), channel),
    );
    accept(agent, listener, dial)
        .await
        .map_err(|source| ServeError::Accept { server, source })
}

/// Microseconds since the kernel started.
fn uptime() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1000
}

fn bind(server: &ServerAddress, port: u32) -> Result<Listener, ServeError> {
    Listener::bind(server, port).map_err(|source| ServeError::Listen {
        server: server.clone(),
        port,
        source,
    })
}

/// Lets a listener work on its own; its failure does not end the agent.
fn detach(port: u32, work: impl Future<Output = io::Result<()>> + 'static) {
    spawn_local(async move {
        if let Err(error) = work.await {
            log::error!(port, error:% = error; "a port is served no more");
        }
    });
}

/// Serves calls on every connection, until the agent is to go down and each has
/// said its last.
async fn accept(
    agent: Rc<Agent>,
    listener: Listener,
    announcement: io::Result<Announcement>,
) -> io::Result<()> {
    let mut connections = JoinSet::new();
    connections.spawn_local(announce(Rc::clone(&agent), announcement));
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                connections.spawn_local(connection::serve(Rc::clone(&agent), stream));
            }
            Some(_) = connections.join_next() => {}
            () = agent.ending.asked() => break,
        }
    }
    while connections.join_next().await.is_some() {}
    Ok(())
}

/// Serves calls on the connection that announces the agent.
async fn announce(agent: Rc<Agent>, announcement: io::Result<Announcement>) {
    let announced = async { announcement?.finish(&agent.config.server).await };
    let announced = tokio::select! {
        stream = announced => stream,
        () = agent.ending.asked() => return,
    };
    match announced {
        Ok(stream) => connection::serve(agent, stream).await,
        // A host that does not await us dials us.
        Err(error) => log::info!(error:% = error; "the host does not listen"),
    }
}

/// The connection by which the agent tells the host that it serves.
#[derive(Debug)]
enum Announcement {
    /// Under way.
    Dialled(Dial),
    /// The guest has no vsock device yet; it is awaited.
    NoDevice(Uevents),
}

impl Announcement {
    fn start(server: &ServerAddress) -> io::Result<Self> {
        if let Some(dial) = dial(server)? {
            return Ok(Self::Dialled(dial));
        }
        // Heard from here on; what appeared before is found by the next try.
        let events = Uevents::listen()?;
        Ok(dial(server)?.map_or(Self::NoDevice(events), Self::Dialled))
    }

    async fn finish(self, server: &ServerAddress) -> io::Result<Stream> {
        let mut events = match self {
            Self::Dialled(dial) => return dial.finish().await,
            Self::NoDevice(events) => events,
        };
        loop {
            let event = events.next().await?;
            // An event without a class stands for some that were lost.
            if event.subsystem().is_none_or(|class| class == "virtio")
                && let Some(dial) = dial(server)?
            {
                return dial.finish().await;
            }
        }
    }
}

/// Dials the host; `None` without a device to do so.
fn dial(server: &ServerAddress) -> io::Result<Option<Dial>> {
    match Dial::start(server, port::AGENT) {
        Ok(dial) => Ok(Some(dial)),
        Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => Ok(None),
        Err(error) => Err(error),
    }
}
