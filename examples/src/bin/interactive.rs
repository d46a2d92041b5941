//! A shell on a terminal of its own: `cargo run -p kata-examples --bin interactive`.
//!
//! The terminal here is made raw, so that every key reaches the shell, and the
//! shell's window follows this one's.

use std::io::{IsTerminal, stdin};
use std::time::Duration;

use kata_examples::{Busybox, guest_image};
use kata_sandbox::{ContainerSpec, PtySize, Rootfs, Runtime, StdioMode};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    if !stdin().is_terminal() {
        return Err("standard input is not a terminal; try the example quickstart".into());
    }
    let busybox = Busybox::new()?;
    let runtime = Runtime::builder().guest_image(guest_image()).build()?;
    let sandbox = runtime.sandbox("interactive").start().await?;
    let spec = ContainerSpec::new(Rootfs::Dir(busybox.root()))
        .command(["/bin/sh"])
        .env("PS1", "sandbox # ")
        .stdio(StdioMode::Pty(window()?));
    let container = sandbox.container("shell", spec).await?;

    let mut shell = container.start().await?;
    let mut input = shell.take_stdin().expect("a terminal has input");
    let mut output = shell.take_stdout().expect("a terminal has output");
    let control = shell.control();
    let raw = RawTerminal::enter()?;
    let keys = tokio::spawn(async move {
        tokio::io::copy(&mut tokio::io::stdin(), &mut input)
            .await
            .map(drop)
    });
    let sizes = tokio::spawn(async move {
        let mut changes = signal(SignalKind::window_change())?;
        while changes.recv().await.is_some() {
            control
                .resize(window()?)
                .await
                .map_err(std::io::Error::other)?;
        }
        std::io::Result::Ok(())
    });
    tokio::io::copy(&mut output, &mut tokio::io::stdout()).await?;
    let exit = shell.wait().await?;
    drop(raw);
    keys.abort();
    sizes.abort();
    println!("exit: {exit:?}");

    sandbox.stop(Duration::from_secs(2)).await?;
    sandbox.delete().await?;
    // A thread still reads the keyboard; it ends with the program.
    std::process::exit(exit.shell_code());
}

fn window() -> std::io::Result<PtySize> {
    let size = tcgetwinsize(stdin())?;
    Ok(PtySize {
        rows: size.ws_row,
        cols: size.ws_col,
    })
}

/// This program's terminal without line editing, until dropped.
struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    fn enter() -> std::io::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(stdin(), OptionalActions::Now, &self.before) {
            eprintln!("the terminal stays raw: {error}");
        }
    }
}
