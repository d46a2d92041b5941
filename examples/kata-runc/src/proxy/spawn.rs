//! Starting a proxy.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};

use kata_sandbox::oci;
use rustix::io::{FdFlags, fcntl_setfd};

use super::order::{Answer, Netns, Order, Said, Settled};
use crate::failure::{Failure, Result, errno_text};
use crate::state::ProxyProcess;

/// This very program, wherever it is.
const SELF: &str = "/proc/self/exe";

/// The streams of a proxy.
#[derive(Debug)]
pub(crate) enum Stdio {
    /// Those of this process.
    Inherited,
    /// A terminal's end.
    Terminal(OwnedFd),
}

/// A proxy that this process has started.
#[derive(Debug)]
pub(crate) struct Proxy {
    child: Child,
    control: BufReader<UnixStream>,
}

impl Proxy {
    /// Starts one, which waits for its order.
    /// Its command line shows, to whoever lists the host's processes, what it
    /// stands for.
    pub(crate) fn start(stdio: Stdio, process: Option<&oci::Process>) -> Result<Self> {
        Self::spawn(stdio, process)
            .map_err(|error| Failure::new(format!("cannot start a proxy: {}", errno_text(&error))))
    }

    fn spawn(stdio: Stdio, process: Option<&oci::Process>) -> std::io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        // Nothing else is started between these two lines.
        fcntl_setfd(&theirs, FdFlags::empty())?;
        let mut command = Command::new(SELF);
        command.arg0(crate::cli::NAME).arg("proxy");
        command.arg(theirs.as_raw_fd().to_string()).arg("--");
        command.args(
            process
                .and_then(|process| process.args().as_ref())
                .into_iter()
                .flatten(),
        );
        if let Stdio::Terminal(terminal) = stdio {
            command.stdin(File::from(terminal.try_clone()?));
            command.stdout(File::from(terminal.try_clone()?));
            command.stderr(File::from(terminal));
        }
        let child = command.spawn()?;
        Ok(Self {
            child,
            control: BufReader::new(ours),
        })
    }

    /// Has it enter a network namespace.
    pub(crate) fn enter(&mut self, netns: Netns) -> Result<()> {
        self.ask(&Said::Network(netns))
    }

    /// Gives it its order, and waits until it is done.
    pub(crate) fn order(&mut self, order: Order) -> Result<()> {
        self.ask(&Said::Order(Box::new(order)))
    }

    fn ask(&mut self, said: &Said) -> Result<()> {
        let lost = |error: std::io::Error| {
            Failure::new(format!("the proxy went away: {}", errno_text(&error)))
        };
        self.say(said).map_err(lost)?;
        let mut line = String::new();
        self.control.read_line(&mut line).map_err(lost)?;
        match serde_json::from_str(&line) {
            Ok(Answer::Ready) => Ok(()),
            Ok(Answer::Failed { message }) => Err(Failure::new(message)),
            Err(_) => {
                let status = self.child.wait().map_err(lost)?;
                Err(Failure::new(format!("the proxy went away: {status}")))
            }
        }
    }

    /// Lets it go on by itself.
    pub(crate) fn settle(&mut self) -> Result<()> {
        self.say(&Settled {})
            .map_err(|error| Failure::new(format!("the proxy went away: {}", errno_text(&error))))
    }

    fn say(&mut self, message: &impl serde::Serialize) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.control.get_mut().write_all(&line)
    }

    /// What tells it from every other process.
    pub(crate) fn process(&self) -> Result<ProxyProcess> {
        ProxyProcess::of(self.child.id())
            .ok_or_else(|| Failure::new("the proxy ended before its container began"))
    }

    /// The process itself, to be waited for.
    pub(crate) fn into_child(self) -> Child {
        self.child
    }

    /// Ends it before it was let go, and waits for its end: it undoes what it
    /// did when this end of the socket closes.
    pub(crate) fn abandon(self) {
        let Self { mut child, control } = self;
        drop(control);
        if let Err(error) = child.wait() {
            log::debug!(error:%; "cannot wait for a proxy");
        }
    }
}
