//! The guest agent: the first process of a sandbox's virtual machine, or a
//! service of a machine that has an init of its own.
//!
//! One thread does everything: it waits in one place for calls, streams and
//! signals, and clones itself for what may block. There is no lock, and a slow
//! container delays no other.
//!
//! | module | what |
//! |---|---|
//! | [`boot`] | file systems, modules, power |
//! | [`config`] | the kernel command line's `agent.*` keys |
//! | [`transport`], [`connection`] | streams, and calls on them |
//! | [`service`] | the calls |
//! | [`files`] | paths and mounts that no container can bend |
//! | [`container`], [`process`], [`stdio`], [`cgroup`], [`seccomp`] | containers |
//! | [`network`], [`storage`], [`channel`], [`metrics`] | what their names say |
#![cfg_attr(not(test), no_main)]

mod boot;
mod cgroup;
mod channel;
mod config;
mod connection;
mod console;
mod container;
#[cfg(not(test))]
mod entry;
mod files;
mod logging;
mod metrics;
mod netlink;
mod network;
mod process;
mod seccomp;
mod serve;
mod service;
mod socket;
mod stdio;
mod storage;
mod transport;
mod uevent;

use std::os::fd::{AsRawFd as _, IntoRawFd as _};

use config::Config;

// The entry point is the test harness's then.
#[cfg(test)]
const _: fn() -> i32 = run;

/// Runs the agent; gives the process's exit status.
fn run() -> i32 {
    let init = rustix::process::getpid().is_init();
    std::panic::set_hook(Box::new(move |panic| {
        boot::power::say(&panic.to_string());
        // A copy that fails, perhaps over what a container made, ends alone.
        if init && !process::is_copy() {
            boot::power::off();
        }
    }));
    match start(init) {
        Ok(()) => {}
        Err(error) => {
            boot::power::say(&one_line(&*error));
            if !init {
                return 1;
            }
        }
    }
    if init {
        boot::power::off();
    }
    0
}

fn start(init: bool) -> Result<(), Box<dyn std::error::Error>> {
    occupy_standard_descriptors()?;
    let command_line = if init {
        boot::early()?
    } else {
        // In a container on a host it is the host's; only a guest has keys.
        std::fs::read_to_string("/proc/cmdline").unwrap_or_default()
    };
    let mut config = Config::read(&command_line);
    let log = logging::install(config.log_level, config.log_port.is_some());
    for complaint in std::mem::take(&mut config.complaints) {
        log::warn!("{complaint}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    tokio::task::LocalSet::new().block_on(&runtime, serve::serve(config, init, log))?;
    Ok(())
}

/// Takes descriptors 0 to 2 if a kernel without a console left them closed: what
/// is opened next would be one of them, and be handed on to every program. What
/// takes their place is good for nothing.
fn occupy_standard_descriptors() -> std::io::Result<()> {
    loop {
        let nothing = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK)?;
        if nothing.as_raw_fd() > 2 {
            return Ok(());
        }
        // It stays open as long as the agent.
        let _ = nothing.into_raw_fd();
    }
}

/// An error and its causes, as one line.
fn one_line(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line
}
