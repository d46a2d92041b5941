//! Standard streams that the host reads and writes by calls.

use std::cell::RefCell;
use std::rc::Rc;

use kata_protocol::ttrpc::{Code, Status};
use rustix::io::Errno;
use tokio::io::Interest;

use super::End;
use super::relay::or_end;
use super::terminal::{END_OF_FILE, WindowSize};
use crate::process::Context as _;

/// The most that one call reads.
const READ_LIMIT: usize = 1 << 20;
/// What is read when the call does not say how much.
const READ_DEFAULT: usize = 32 << 10;

/// The agent's ends of a process's streams, as far as calls use them.
#[derive(Debug, Default)]
pub(crate) struct Stdio {
    stdin: RefCell<Option<Rc<End>>>,
    stdout: Option<Rc<End>>,
    stderr: Option<Rc<End>>,
    terminal: Option<Rc<End>>,
}

impl Stdio {
    pub(super) fn set_stdin(&mut self, end: Rc<End>) {
        self.stdin = RefCell::new(Some(end));
    }

    pub(super) fn set_stdout(&mut self, end: Rc<End>) {
        self.stdout = Some(end);
    }

    pub(super) fn set_stderr(&mut self, end: Rc<End>) {
        self.stderr = Some(end);
    }

    pub(super) fn set_terminal(&mut self, master: Rc<End>) {
        self.terminal = Some(master);
    }

    /// Writes all of `data` to standard input, waiting while the process does
    /// not read.
    ///
    /// # Errors
    /// When standard input is closed, or no call can write it.
    pub(crate) async fn write_stdin(&self, data: &[u8]) -> Result<(), Status> {
        let stdin = self.stdin.borrow().clone();
        let stdin = stdin.ok_or_else(|| no_calls("standard input is closed or a stream"))?;
        super::relay::write_all(&stdin, data)
            .await
            .map_err(|error| match Errno::from_io_error(&error) {
                Some(Errno::PIPE | Errno::IO) => no_calls("the process has closed standard input"),
                _ => Status::new(Code::Internal, format!("write standard input: {error}")),
            })
    }

    /// Ends standard input; nothing happens if it is closed.
    ///
    /// # Errors
    /// When a terminal takes no more input.
    pub(crate) async fn close_stdin(&self) -> Result<(), Status> {
        let stdin = self.stdin.take();
        match (stdin, &self.terminal) {
            (Some(_), Some(terminal)) => super::relay::write_all(terminal, &[END_OF_FILE])
                .await
                .context(|| "end the terminal's input"),
            _ => Ok(()),
        }
    }

    /// Reads standard output; nothing means its end.
    ///
    /// # Errors
    /// When standard output is no call's to read.
    pub(crate) async fn read_stdout(&self, length: u32) -> Result<Vec<u8>, Status> {
        let stdout = self.stdout.clone();
        read(
            stdout.ok_or_else(|| no_calls("standard output is a stream"))?,
            length,
        )
        .await
    }

    /// Reads standard error; nothing means its end.
    ///
    /// # Errors
    /// When standard error is no call's to read.
    pub(crate) async fn read_stderr(&self, length: u32) -> Result<Vec<u8>, Status> {
        match (&self.stderr, &self.terminal) {
            (Some(stderr), _) => read(Rc::clone(stderr), length).await,
            // A terminal has one output.
            (None, Some(_)) => Ok(Vec::new()),
            (None, None) => Err(no_calls("standard error is a stream")),
        }
    }

    /// Changes the terminal's size.
    ///
    /// # Errors
    /// When there is no terminal.
    pub(crate) fn resize(&self, size: WindowSize) -> Result<(), Status> {
        let terminal = self
            .terminal
            .as_ref()
            .ok_or_else(|| no_calls("it has no terminal"))?;
        size.apply(terminal.get_ref())
    }
}

fn no_calls(why: &str) -> Status {
    Status::new(Code::FailedPrecondition, why)
}

async fn read(end: Rc<End>, length: u32) -> Result<Vec<u8>, Status> {
    let length = match usize::try_from(length).unwrap_or(READ_LIMIT) {
        0 => READ_DEFAULT,
        length => length.min(READ_LIMIT),
    };
    let read = end.async_io(Interest::READABLE, |fd| {
        // Made when there is something to read: a waiting call costs nothing.
        let mut data = vec![0; length];
        let got = rustix::io::read(fd, &mut data)?;
        data.truncate(got);
        Ok(data)
    });
    or_end(read.await, Vec::new).context(|| "read a standard stream")
}
