//! runc's command line on kata-sandbox: the same commands, options and answers,
//! with each container in a virtual machine.
//!
//! It is an example of the library's public API, and a runtime that Podman,
//! containerd and Docker drive as they drive runc. `docs/kata-runc.md` says how
//! its processes share the work.

mod bundle;
mod cgroup;
mod cli;
mod client;
mod command;
mod config;
mod console;
mod devices;
mod failure;
mod hooks;
mod inherited;
mod lock;
mod logging;
mod mount_points;
mod network;
mod pod;
mod processors;
mod program;
mod proxy;
mod root;
mod signal;
mod state;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main(std::env::args_os().skip(1).collect())
}
