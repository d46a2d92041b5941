//! What operations come to, and how that travels.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use kata_hypervisor::{GuestStream, MemorySize};
use kata_network::{GuestInterface, Route, Rule};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::operation::{Delete, Recipient, SendSignal};
use super::{ContainerFace, ContainerKey, ProcessFace, Request};
use crate::engine::{Engine, Streams};
use crate::error::Result;
use crate::exit::{Exit, Signal};
use crate::processes::ProcessInfo;
use crate::stats::{ContainerStats, SandboxStats};
use crate::stdio::{Reader, Stdin};
use crate::supervisor::{Description, Mirror};

/// What an operation comes to.
pub(crate) trait Reply: Sized + Send + 'static {
    /// Makes a packet of it, in the process that performed the operation.
    fn pack(self, engine: &Engine) -> Result<Packet>;

    /// Takes it out of a packet, in the process that asked.
    fn unpack(packet: Packet, mirror: &Mirror) -> Result<Self, Malformed>;

    /// What undoes it when nobody waited for it to the end.
    fn undo(self) -> Option<Request> {
        None
    }
}

/// A packet that is not what was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Malformed {
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("it has {has} descriptors, and needs {needs}")]
    Descriptors { has: usize, needs: usize },
    #[error("its descriptor is no socket")]
    NoSocket(#[source] std::io::Error),
}

/// A reply on its way: a document, and the descriptors that go with it.
#[derive(Debug, Default)]
pub(crate) struct Packet {
    pub(crate) body: Value,
    pub(crate) descriptors: Vec<OwnedFd>,
    /// A process whose end is to be told to whoever gets the packet.
    pub(crate) watch: Option<(ContainerKey, Arc<ProcessFace>)>,
}

impl Packet {
    fn plain(value: &impl Serialize) -> Self {
        Self {
            body: serde_json::to_value(value).expect("replies have string keys only"),
            ..Self::default()
        }
    }
}

/// Replies that are documents and nothing else.
macro_rules! plain {
    ($($reply:ty),* $(,)?) => {$(
        impl Reply for $reply {
            fn pack(self, _: &Engine) -> Result<Packet> {
                Ok(Packet::plain(&self))
            }

            fn unpack(packet: Packet, _: &Mirror) -> Result<Self, Malformed> {
                Ok(serde_json::from_value(packet.body)?)
            }
        }
    )*};
}

plain!(
    (),
    Option<Exit>,
    (u32, MemorySize),
    Vec<GuestInterface>,
    (Vec<Route>, Vec<Rule>),
    ContainerStats,
    SandboxStats,
    Vec<ProcessInfo>,
    Vec<u8>,
);

impl Reply for Arc<ContainerFace> {
    fn pack(self, _: &Engine) -> Result<Packet> {
        Ok(Packet::plain(&Description::of(&self)))
    }

    fn unpack(packet: Packet, mirror: &Mirror) -> Result<Self, Malformed> {
        let description = serde_json::from_value(packet.body)?;
        // Told of as news before this; or deleted since, and then not kept.
        Ok(mirror.known(description))
    }

    fn undo(self) -> Option<Request> {
        let container = self.key.clone();
        Some(Delete { container }.into())
    }
}

/// Which of three streams there are, in the order of their descriptors.
#[derive(Debug, Serialize, Deserialize)]
struct Which {
    stdin: bool,
    stdout: bool,
    stderr: bool,
}

impl Streams {
    fn into_descriptors(self, engine: &Engine) -> Result<(Which, Vec<OwnedFd>)> {
        let Self {
            stdin,
            stdout,
            stderr,
            ..
        } = self;
        let which = Which {
            stdin: stdin.is_some(),
            stdout: stdout.is_some(),
            stderr: stderr.is_some(),
        };
        let context = engine.context("hand on streams of");
        let stdin = stdin.map(|it| it.into_fd(engine));
        let outputs = [stdout, stderr].into_iter().flatten();
        let descriptors = stdin
            .into_iter()
            .chain(outputs.map(|it| it.into_fd(engine)))
            .collect::<std::io::Result<Vec<_>>>()
            .map_err(|error| context.io("cannot make a socket", error))?;
        Ok((which, descriptors))
    }

    fn from_descriptors(which: &Which, descriptors: Vec<OwnedFd>) -> Result<Self, Malformed> {
        let wanted = [which.stdin, which.stdout, which.stderr];
        let needs = wanted.iter().filter(|wanted| **wanted).count();
        if descriptors.len() != needs {
            let has = descriptors.len();
            return Err(Malformed::Descriptors { has, needs });
        }
        let mut descriptors = descriptors.into_iter();
        let mut next = |wanted: bool| {
            let descriptor = wanted.then(|| descriptors.next()).flatten();
            descriptor.map(socket).transpose()
        };
        Ok(Self::of(
            next(which.stdin)?.map(Stdin::of_guest),
            next(which.stdout)?.map(Reader::of_guest),
            next(which.stderr)?.map(Reader::of_guest),
        ))
    }
}

/// A guest's stream that came as a descriptor. Its port is nobody's business
/// here.
fn socket(descriptor: OwnedFd) -> Result<GuestStream, Malformed> {
    stream(descriptor, 0)
}

fn stream(descriptor: OwnedFd, host_port: u32) -> Result<GuestStream, Malformed> {
    let socket = std::os::unix::net::UnixStream::from(descriptor);
    let socket = socket
        .set_nonblocking(true)
        .and_then(|()| tokio::net::UnixStream::from_std(socket))
        .map_err(Malformed::NoSocket)?;
    Ok(GuestStream::from_unix(socket, host_port))
}

impl Reply for Streams {
    fn pack(self, engine: &Engine) -> Result<Packet> {
        let (which, descriptors) = self.into_descriptors(engine)?;
        Ok(Packet {
            descriptors,
            ..Packet::plain(&which)
        })
    }

    fn unpack(packet: Packet, _: &Mirror) -> Result<Self, Malformed> {
        let which = serde_json::from_value(packet.body)?;
        Self::from_descriptors(&which, packet.descriptors)
    }
}

/// A process that was executed, with its streams.
#[derive(Debug)]
pub(crate) struct Executed {
    pub(crate) container: ContainerKey,
    pub(crate) process: Arc<ProcessFace>,
    pub(crate) streams: Streams,
}

/// What is known of a process, as it travels.
#[derive(Debug, Serialize, Deserialize)]
struct Running {
    container: ContainerKey,
    exec_id: String,
    terminal: bool,
    pid: Option<u32>,
    which: Which,
}

impl Executed {
    fn describe(&self, which: Which) -> Running {
        Running {
            container: self.container.clone(),
            exec_id: self.process.exec_id().to_owned(),
            terminal: self.process.terminal,
            pid: self.process.pid(),
            which,
        }
    }
}

impl Reply for Executed {
    fn pack(mut self, engine: &Engine) -> Result<Packet> {
        let streams = std::mem::take(&mut self.streams);
        let (which, descriptors) = streams.into_descriptors(engine)?;
        let running = self.describe(which);
        Ok(Packet {
            descriptors,
            watch: Some((self.container, self.process)),
            ..Packet::plain(&running)
        })
    }

    fn unpack(packet: Packet, mirror: &Mirror) -> Result<Self, Malformed> {
        let running: Running = serde_json::from_value(packet.body)?;
        let streams = Streams::from_descriptors(&running.which, packet.descriptors)?;
        let process = ProcessFace::new(running.exec_id, running.terminal);
        process.note_pid(running.pid.unwrap_or_default());
        let process = mirror.watch(&running.container, process);
        Ok(Self {
            container: running.container,
            process,
            streams,
        })
    }

    fn undo(self) -> Option<Request> {
        let signal = SendSignal {
            container: self.container,
            to: Recipient::Executed(self.process.exec_id().to_owned()),
            signal: Signal::KILL,
        };
        Some(signal.into())
    }
}

/// A process that was found: as one executed, but for its streams; and it is
/// not killed when nobody wants to know any more.
impl Reply for (ContainerKey, Arc<ProcessFace>) {
    fn pack(self, engine: &Engine) -> Result<Packet> {
        let (container, process) = self;
        let streams = Streams::default();
        let executed = Executed {
            container,
            process,
            streams,
        };
        executed.pack(engine)
    }

    fn unpack(packet: Packet, mirror: &Mirror) -> Result<Self, Malformed> {
        let found = Executed::unpack(packet, mirror)?;
        Ok((found.container, found.process))
    }
}

impl Reply for GuestStream {
    fn pack(self, engine: &Engine) -> Result<Packet> {
        let host_port = self.host_port();
        let context = engine.context("dial into sandbox");
        let descriptor = crate::stdio::hand_on(self, engine)
            .map_err(|error| context.io("cannot make a socket", error))?;
        Ok(Packet {
            descriptors: vec![descriptor],
            ..Packet::plain(&host_port)
        })
    }

    fn unpack(packet: Packet, _: &Mirror) -> Result<Self, Malformed> {
        let host_port = serde_json::from_value(packet.body)?;
        let has = packet.descriptors.len();
        match <[OwnedFd; 1]>::try_from(packet.descriptors) {
            Ok([descriptor]) => stream(descriptor, host_port),
            Err(_) => Err(Malformed::Descriptors { has, needs: 1 }),
        }
    }
}
