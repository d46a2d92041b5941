//! Executing a further process in a container.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use oci_spec::runtime as oci;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::error::{ErrorKind, Result};
use crate::exit::{Exit, Signal};
use crate::home::operation::Execute;
use crate::home::{ContainerFace, Executed, Home};
use crate::process::{Process, ProcessControl};
use crate::spec::{self, GuestUser};
use crate::stdio::StdioMode;

/// How much of each output [`Exec::output`] keeps when nothing else is said.
const OUTPUT_LIMIT: usize = 1 << 20;

/// Describes a further process in a container.
///
/// ```no_run
/// # async fn run(container: &kata_sandbox::Container) -> kata_sandbox::Result<()> {
/// let listing = container
///     .exec("/bin/ls")
///     .args(["-l", "/data"])
///     .timeout(std::time::Duration::from_secs(5))
///     .output()
///     .await?;
/// println!("{}: {}", listing.exit, String::from_utf8_lossy(&listing.stdout));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a process begins with `spawn` or `output`"]
pub struct Exec {
    home: Arc<Home>,
    container: Arc<ContainerFace>,
    process: oci::Process,
    user: Option<GuestUser>,
    stdio: StdioMode,
    tied_to: Option<u32>,
    timeout: Option<Duration>,
    output_limit: usize,
}

/// What a process wrote, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Output {
    /// How it ended.
    pub exit: Exit,
    /// What it wrote to its standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to its standard error.
    pub stderr: Vec<u8>,
    /// Whether it wrote more than was kept.
    pub truncated: bool,
}

impl Exec {
    pub(crate) fn new(home: Arc<Home>, container: Arc<ContainerFace>, program: String) -> Self {
        let mut process = container.process.clone();
        process.set_args(Some(vec![program]));
        Self {
            home,
            container,
            process,
            user: None,
            stdio: StdioMode::Null,
            tied_to: None,
            timeout: None,
            output_limit: OUTPUT_LIMIT,
        }
    }

    /// Arguments of the program, after those before.
    pub fn args<I, S>(mut self, args: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        spec::add_args(&mut self.process, args);
        self
    }

    /// Sets an environment variable, on top of the container's.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        spec::set_env(&mut self.process, name, value);
        self
    }

    /// The working directory, absolute, in the container.
    pub fn cwd(mut self, directory: impl Into<PathBuf>) -> Self {
        self.process.set_cwd(directory.into());
        self
    }

    /// Who runs it: `user` or `user:group`, each a number or a name from the
    /// container's files.
    pub fn user(mut self, user: &str) -> Self {
        let user = GuestUser::parse(user);
        user.apply(&mut self.process);
        self.user = Some(user);
        self
    }

    /// The capabilities that it has, instead of the container's.
    pub fn capabilities(mut self, set: impl IntoIterator<Item = oci::Capability>) -> Self {
        spec::set_capabilities(&mut self.process, set);
        self
    }

    /// Keeps it from gaining privileges, as through setuid programs.
    pub fn no_new_privileges(mut self) -> Self {
        self.process.set_no_new_privileges(Some(true));
        self
    }

    /// Changes the OCI process itself, for all that has no method here.
    pub fn edit_oci(mut self, edit: impl FnOnce(&mut oci::Process)) -> Self {
        edit(&mut self.process);
        self
    }

    /// What becomes of its standard streams; by default, nothing.
    /// [`Exec::output`] collects them, whatever is said here.
    pub fn stdio(mut self, mode: StdioMode) -> Self {
        self.stdio = mode;
        self
    }

    /// Has it killed when that process of the host ends, for a program that
    /// stands for it there.
    pub fn tied_to(mut self, pid: u32) -> Self {
        self.tied_to = Some(pid);
        self
    }

    /// How long [`Exec::output`] may take; then the process is killed.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// How many bytes of each output [`Exec::output`] keeps; by default 1 MiB.
    pub fn output_limit(mut self, bytes: usize) -> Self {
        self.output_limit = bytes;
        self
    }

    /// Starts it. Dropping the future before it is through kills what may have
    /// been started.
    ///
    /// # Errors
    /// `InvalidState` when the container has stopped or is paused, and what the
    /// agent says, such as that there is no such program.
    pub async fn spawn(self) -> Result<Process> {
        if self.home.is_detached() {
            let id = self.container.id();
            let context = self.home.container_context("execute in container", id);
            spec::check_log(&self.stdio, &context)?;
        }
        let execute = Execute {
            container: self.container.key.clone(),
            process: Box::new(self.process),
            user: self.user,
            stdio: self.stdio,
            tied_to: self.tied_to,
        };
        let Executed {
            process, streams, ..
        } = self.home.ask(execute).await?;
        Ok(Process::new(self.home, self.container, process, streams))
    }

    /// Runs it to its end, with nothing to read, and collects what it writes.
    /// It has ended when both its outputs are closed: a process that it leaves
    /// behind keeps them open. Dropping the future kills it.
    ///
    /// # Errors
    /// As [`Exec::spawn`], and `Timeout`.
    pub async fn output(mut self) -> Result<Output> {
        self.stdio = StdioMode::Piped;
        let (limit, timeout) = (self.output_limit, self.timeout);
        let context = self
            .home
            .container_context("execute in container", self.container.id());
        let process = self.spawn().await?;
        let control = process.control();
        let unheard = Unheard(control.clone());
        let collecting = collect(process, limit);
        let Some(timeout) = timeout else {
            let output = collecting.await;
            drop(unheard);
            return output;
        };
        match tokio::time::timeout(timeout, collecting).await {
            Ok(output) => output,
            Err(_) => {
                let limit = timeout.as_millis();
                let (what, failed) = match control.kill(Signal::KILL).await {
                    Ok(()) => ("was killed", None),
                    Err(failed) => ("could not be killed", Some(failed)),
                };
                let reason = format!("it was still running after {limit} ms, and {what}");
                let error = context.error(ErrorKind::Timeout, reason);
                Err(match failed {
                    Some(failed) => error.caused_by(failed),
                    None => error,
                })
            }
        }
    }
}

/// A process that is to end when nobody waits for its output any more.
struct Unheard(ProcessControl);

impl Drop for Unheard {
    fn drop(&mut self) {
        self.0.kill_unless_ended();
    }
}

async fn collect(mut process: Process, limit: usize) -> Result<Output> {
    drop(process.take_stdin());
    let (stdout, stderr) = (process.take_stdout(), process.take_stderr());
    let ((stdout, more_out), (stderr, more_err), exit) =
        tokio::join!(read(stdout, limit), read(stderr, limit), process.wait());
    Ok(Output {
        exit: exit?,
        stdout,
        stderr,
        truncated: more_out || more_err,
    })
}

/// Reads to the end, keeps what is allowed, and says whether there was more. A
/// stream that fails has ended with its guest: the exit status tells.
async fn read(stream: Option<impl AsyncRead + Unpin>, limit: usize) -> (Vec<u8>, bool) {
    let Some(mut stream) = stream else {
        return (Vec::new(), false);
    };
    let mut kept = Vec::new();
    let limit = u64::try_from(limit).unwrap_or(u64::MAX);
    let read = (&mut stream).take(limit).read_to_end(&mut kept).await;
    if read.is_err() {
        return (kept, true);
    }
    let rest = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    (kept, !matches!(rest, Ok(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn output_is_kept_up_to_its_limit_and_read_to_its_end() {
        assert_eq!(read(Some(&b"abcd"[..]), 4).await, (b"abcd".to_vec(), false));
        assert_eq!(read(Some(&b"abcde"[..]), 4).await, (b"abcd".to_vec(), true));
        assert_eq!(read(None::<&[u8]>, 4).await, (vec![], false));
    }
}
