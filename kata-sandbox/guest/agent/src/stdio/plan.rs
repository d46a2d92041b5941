//! Deciding what a process's standard streams are joined to.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::rc::Rc;

use kata_protocol::port;
use kata_protocol::ttrpc::Status;
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

use super::pull::Stdio;
use super::relay;
use super::streams::Streams;
use super::terminal::WindowSize;
use super::{End, end};
use crate::files::{Attributes, RDONLY, clone_tree, name, set_attributes};
use crate::process::Context as _;

/// The ports that a request names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    /// Input, or 0.
    pub(crate) stdin: u32,
    /// Output, also a terminal's; or 0.
    pub(crate) stdout: u32,
    /// Errors, or 0.
    pub(crate) stderr: u32,
}

/// What the far side of a stream is.
#[derive(Debug)]
enum Far {
    /// Nothing.
    Null,
    /// Calls of the agent's protocol.
    Calls,
    /// A stream that the host dialled.
    Stream(OwnedFd),
}

/// The streams of a process that is about to be made.
#[derive(Debug)]
pub(crate) struct Plan {
    far: [Far; 3],
    terminal: Option<WindowSize>,
}

/// The streams' ends in the new process.
#[derive(Debug)]
pub(crate) enum ChildEnds {
    /// Standard input, output and error.
    Streams([ChildEnd; 3]),
    /// A terminal, which the process makes in its container.
    Terminal(WindowSize),
}

/// A stream's end in the new process.
#[derive(Debug)]
pub(crate) enum ChildEnd {
    /// `/dev/null`, which is one for all.
    Null(Rc<OwnedFd>),
    /// The process's end of a pipe.
    Pipe(OwnedFd),
}

impl ChildEnd {
    /// The pipe's end, if it is one. The null device is not the container's to
    /// own.
    pub(crate) fn pipe(&self) -> Option<&OwnedFd> {
        match self {
            Self::Null(_) => None,
            Self::Pipe(end) => Some(end),
        }
    }
}

impl AsFd for ChildEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Null(null) => null.as_fd(),
            Self::Pipe(end) => end.as_fd(),
        }
    }
}

/// The agent's ends, not yet at work.
#[derive(Debug)]
pub(crate) struct AgentEnds {
    far: [Far; 3],
    near: [Option<OwnedFd>; 3],
}

impl Plan {
    /// Waits for the streams that `ports` names. When all are 0 the host will
    /// read and write by calls; when some are, those are `/dev/null`.
    ///
    /// # Errors
    /// When a stream does not come in time.
    pub(crate) async fn new(
        streams: &Streams,
        ports: Ports,
        terminal: Option<WindowSize>,
    ) -> Result<Self, Status> {
        let calls = ports.stdin == 0 && ports.stdout == 0 && ports.stderr == 0;
        let mut far = [Far::Null, Far::Null, Far::Null];
        for (far, port) in far
            .iter_mut()
            .zip([ports.stdin, ports.stdout, ports.stderr])
        {
            *far = match port {
                _ if calls => Far::Calls,
                0 | port::NONE => Far::Null,
                port => Far::Stream(streams.claim(port).await?),
            };
        }
        Ok(Self { far, terminal })
    }

    /// Makes the pipes, of `pipe_size` bytes each if given, else of what suits them.
    ///
    /// # Errors
    /// When there are too many descriptors.
    pub(crate) fn open(self, pipe_size: Option<u32>) -> Result<(ChildEnds, AgentEnds), Status> {
        let Self { far, terminal } = self;
        if let Some(size) = terminal {
            let near = [None, None, None];
            return Ok((ChildEnds::Terminal(size), AgentEnds { far, near }));
        }
        let mut null = None;
        let mut make = |index: usize| -> io::Result<(ChildEnd, Option<OwnedFd>)> {
            if let Far::Null = far[index] {
                let null = match &null {
                    Some(null) => Rc::clone(null),
                    None => Rc::clone(null.insert(open_null()?)),
                };
                return Ok((ChildEnd::Null(null), None));
            }
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
            // Where much may come, the process is to run for a while before the
            // agent must: each switch between the two costs more than the pages.
            let usual = (index == 1).then_some(relay::CHUNK);
            if let Some(size) = pipe_size
                .and_then(|size| usize::try_from(size).ok())
                .or(usual)
            {
                fcntl_setpipe_size(&writer, size)?;
            }
            Ok(if index == 0 {
                (ChildEnd::Pipe(reader), Some(writer))
            } else {
                (ChildEnd::Pipe(writer), Some(reader))
            })
        };
        let mut make = |index| make(index).context(|| "make the standard streams");
        let ((stdin, to), (stdout, from), (stderr, from_errors)) = (make(0)?, make(1)?, make(2)?);
        let ends = AgentEnds {
            far,
            near: [to, from, from_errors],
        };
        Ok((ChildEnds::Streams([stdin, stdout, stderr]), ends))
    }
}

thread_local! {
    /// The null device, opened once.
    static NULL: RefCell<Option<Rc<OwnedFd>>> = const { RefCell::new(None) };
}

/// The guest's null device, through a mount of its own that is read-only: who
/// has it may read and write it, and change neither its mode nor its owner.
fn open_null() -> io::Result<Rc<OwnedFd>> {
    NULL.with_borrow_mut(|kept| {
        if let Some(null) = kept {
            return Ok(Rc::clone(null));
        }
        let mount = clone_tree(Path::new("/dev/null"), false)?;
        let read_only = Attributes {
            set: RDONLY,
            clear: 0,
        };
        set_attributes(&mount, read_only, false)?;
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let null = rustix::fs::open(name(&mount), flags, Mode::empty())?;
        Ok(Rc::clone(kept.insert(Rc::new(null))))
    })
}

impl ChildEnds {
    /// The descriptors that the new process must keep.
    pub(crate) fn keep(&self) -> Vec<RawFd> {
        match self {
            Self::Streams(ends) => ends.iter().map(|end| end.as_fd().as_raw_fd()).collect(),
            Self::Terminal(_) => Vec::new(),
        }
    }
}

impl AgentEnds {
    /// Sets the streams to work, once the process is there. `master` is its
    /// terminal's, if it has one.
    ///
    /// # Errors
    /// When the descriptors cannot be waited for.
    pub(crate) fn connect(self, master: Option<OwnedFd>) -> Result<Stdio, Status> {
        self.try_connect(master)
            .context(|| "set up the standard streams")
    }

    fn try_connect(self, master: Option<OwnedFd>) -> io::Result<Stdio> {
        let [to, from, from_errors] = self.far;
        let mut stdio = Stdio::default();
        if let Some(master) = master {
            let master = Rc::new(end(master)?);
            stdio.set_terminal(Rc::clone(&master));
            match to {
                Far::Stream(stream) => relay::terminal_input(end(stream)?, &master),
                Far::Calls => stdio.set_stdin(Rc::clone(&master)),
                Far::Null => {}
            }
            match from {
                Far::Stream(stream) => relay::output(master, end(stream)?),
                Far::Calls => stdio.set_stdout(master),
                Far::Null => relay::discard(master),
            }
            return Ok(stdio);
        }
        let shared = |fd| -> io::Result<Rc<End>> { Ok(Rc::new(end(fd)?)) };
        let [near_to, near_from, near_errors] = self.near;
        match (to, near_to) {
            (Far::Stream(stream), Some(pipe)) => relay::input(end(stream)?, end(pipe)?),
            (Far::Calls, Some(pipe)) => stdio.set_stdin(shared(pipe)?),
            _ => {}
        }
        match (from, near_from) {
            (Far::Stream(stream), Some(pipe)) => relay::output(shared(pipe)?, end(stream)?),
            (Far::Calls, Some(pipe)) => stdio.set_stdout(shared(pipe)?),
            _ => {}
        }
        match (from_errors, near_errors) {
            (Far::Stream(stream), Some(pipe)) => relay::output(shared(pipe)?, end(stream)?),
            (Far::Calls, Some(pipe)) => stdio.set_stderr(shared(pipe)?),
            _ => {}
        }
        Ok(stdio)
    }
}
