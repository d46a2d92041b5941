//! What a proxy does.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use kata_sandbox::{
    Container, ContainerSpec, Exit, Namespace, Process, PtySize, Rootfs, StdioMode,
};

use super::ending;
use super::order::{Answer, Order, Said, Settled, Task};
use super::place;
use super::relay::{Streams, Until, relay};
use super::signals::{Forwarded, Received};
use crate::cli::{Arguments, Globals};
use crate::client;
use crate::console;
use crate::devices;
use crate::failure::{Failure, Result, errno_text};
use crate::inherited;
use crate::logging;

/// How long outputs may stay silent and open after a container's first process
/// has ended: nothing else is left that could write, so this is a last resort.
const AFTER_FIRST: Until = Until(Duration::from_secs(30));
/// The same for a further process, which may leave others behind.
const AFTER_EXEC: Until = Until(Duration::from_secs(2));
/// A terminal of no size.
const NO_SIZE: PtySize = PtySize { rows: 0, cols: 0 };

/// The hidden command `proxy`: takes an order, and ends as it says.
pub(crate) fn run(_: &Globals, arguments: &Arguments) -> Result<u8> {
    let number = arguments.argument(0)?;
    let number = number
        .parse()
        .map_err(|_| Failure::new(format!("{number:?} is no descriptor")))?;
    let control = inherited::take_alone(number)
        .map_err(|error| Failure::new(format!("no control socket: {}", errno_text(&error))))?;
    let control = UnixStream::from(control);
    // Apart from the session of whoever called: its Ctrl-C is not for here. It
    // fails for a process that leads a group, and such one is apart already.
    let _ = rustix::process::setsid();
    let mut control = BufReader::new(control);
    let order = loop {
        // A command that goes away without an order has said why.
        if control.fill_buf().is_ok_and(<[u8]>::is_empty) {
            return Ok(1);
        }
        match receive(&mut control)? {
            Said::Order(order) => break *order,
            Said::Network(netns) => match place::network(&netns) {
                Ok(()) => answer(&mut control, &Answer::Ready),
                Err(error) => {
                    let reason = errno_text(&error);
                    let message = format!("cannot enter the network namespace: {reason}");
                    answer(&mut control, &Answer::Failed { message });
                    return Ok(1);
                }
            },
        }
    };
    logging::start(
        order.globals.log.as_deref(),
        order.globals.log_format,
        order.globals.debug,
    )?;
    match client::block_on(serve(order, control))?? {
        Some(exit) => ending::end(exit),
        // Whoever gave the order says why.
        None => Ok(1),
    }
}

fn receive<T: serde::de::DeserializeOwned>(control: &mut BufReader<UnixStream>) -> Result<T> {
    let mut line = String::new();
    let read = control.read_line(&mut line);
    read.and_then(|_| serde_json::from_str(&line).map_err(io::Error::from))
        .map_err(|error| Failure::new(format!("no order: {}", errno_text(&error))))
}

async fn serve(order: Order, mut control: BufReader<UnixStream>) -> Result<Option<Exit>> {
    let terminal = order.terminal;
    if terminal {
        // So that a new size of the window is told by SIGWINCH, and its end by
        // SIGHUP. Without it the proxy would still work, deaf to both.
        let _ = rustix::process::ioctl_tiocsctty(io::stdin().as_fd());
    }
    let until = match order.task {
        Task::Create { .. } => AFTER_FIRST,
        Task::Exec { .. } => AFTER_EXEC,
    };
    let signals = Forwarded::catch()
        .map_err(|error| Failure::new(format!("cannot catch signals: {}", errno_text(&error))))?;
    let (mut process, container) = match begin(order).await {
        Ok(begun) => begun,
        Err(failure) => {
            answer(
                &mut control,
                &Answer::Failed {
                    message: failure.to_string(),
                },
            );
            return Ok(None);
        }
    };
    answer(&mut control, &Answer::Ready);
    // A command that dies before its container is written down wants none.
    if receive::<Settled>(&mut control).is_err() {
        undo(&process, container).await;
        return Ok(None);
    }
    drop(control);
    let streams = Streams::standard()
        .map_err(|error| Failure::new(format!("no streams: {}", errno_text(&error))))?;
    let relays = relay(&mut process, streams, until);
    let window = terminal.then(io::stdin);
    let exit = attend(&process, container.as_ref(), signals, window.as_ref()).await;
    relays.finish().await;
    Ok(Some(exit))
}

fn answer(control: &mut BufReader<UnixStream>, answer: &Answer) {
    let line = serde_json::to_vec(answer).map(|mut line| {
        line.push(b'\n');
        line
    });
    // A command that is gone is told apart by the next read.
    drop(line.map(|line| control.get_mut().write_all(&line)));
}

/// Makes the process, up to where its program could run.
async fn begin(order: Order) -> Result<(Process, Option<Container>)> {
    let stdio = if order.terminal {
        let size = console::size(io::stdin().as_fd());
        StdioMode::Pty(size.map_or(NO_SIZE, |(rows, cols)| PtySize { rows, cols }))
    } else {
        StdioMode::Piped
    };
    let runtime = client::runtime(&order.globals)?;
    let sandbox = runtime.attach(&order.sandbox).await?;
    match order.task {
        Task::Create {
            bundle,
            rootfs,
            spec,
            no_pivot,
            shares_pid_with,
        } => {
            let own = Rootfs::Dir(rootfs.clone());
            let mut made = ContainerSpec::from_oci(&bundle, (*spec).clone(), own)
                .stdio(stdio)
                .host_pid(std::process::id())
                .tied_to(std::process::id());
            if let Some(other) = shares_pid_with {
                made = made.join(Namespace::Pid, other);
            }
            if devices::are_all_given(&spec) {
                made = made.without_host_devices();
            }
            let container = sandbox.container(&order.container, made).await?;
            let process = container.attach().await?;
            // From here on there are only descriptors, no paths of the host.
            if let Err(error) = place::mounts(&bundle, &rootfs, &spec, no_pivot)
                && let Err(failure) = unconfined(&error, no_pivot)
            {
                undo(&process, Some(container)).await;
                return Err(failure);
            }
            Ok((process, Some(container)))
        }
        Task::Exec { process } => {
            let container = sandbox.get(&order.container)?;
            let exec = container
                .exec("")
                .edit_oci(|own| *own = *process)
                .stdio(stdio)
                .tied_to(std::process::id());
            Ok((exec.spawn().await?, None))
        }
    }
}

/// Whether a proxy may be where it is. Engines reach the container's files by way
/// of it: from root's they must not reach the host's.
fn unconfined(error: &io::Error, no_pivot: bool) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        log::warn!(error:%; "the proxy stays in the host's mount namespace");
        return Ok(());
    }
    let reason = errno_text(error);
    let remedy = match no_pivot {
        true => "",
        false => "; where the root cannot be pivoted, as in an initramfs, say --no-pivot",
    };
    Err(Failure::new(format!(
        "cannot bring the container's proxy to its root file system: {reason}{remedy}"
    )))
}

async fn undo(process: &Process, container: Option<Container>) {
    let undone = match container {
        Some(container) => container.delete().await.map(|_| ()),
        None => process.kill(kata_sandbox::Signal::KILL).await,
    };
    if let Err(error) = undone {
        log::warn!(error:%; "a process without its command could not be ended");
    }
}

/// Passes signals and sizes on until the process has ended.
async fn attend(
    process: &Process,
    container: Option<&Container>,
    mut signals: Forwarded,
    window: Option<&io::Stdin>,
) -> Exit {
    let mut ended = std::pin::pin!(async {
        match container {
            // It may be deleted without ever being started.
            Some(container) => container.wait().await,
            None => process.wait().await,
        }
    });
    loop {
        tokio::select! {
            biased;
            exit = &mut ended => return exit.unwrap_or(Exit::Lost),
            received = signals.next() => match (received, window) {
                (Received::Signal(signal), _) => told(process.kill(signal).await),
                (Received::Resized, Some(window)) => {
                    if let Some((rows, cols)) = console::size(window.as_fd()) {
                        told(process.resize(PtySize { rows, cols }).await);
                    }
                }
                (Received::Resized, None) => {}
            },
        }
    }
}

/// Nobody waits for a signal to arrive: what fails is logged.
fn told(outcome: kata_sandbox::Result<()>) {
    if let Err(error) = outcome {
        log::debug!(error:%; "not passed on");
    }
}
