//! Run OCI containers inside virtual machines, from any Rust program.
//!
//! A [`Runtime`] starts [`Sandbox`]es: virtual machines, each with an agent
//! inside. A sandbox runs [`Container`]s, one or many (a pod), and a container
//! runs [`Process`]es. There is no daemon and no global state; a program may
//! have as many runtimes, and a runtime as many sandboxes, as it likes.
//!
//! ```no_run
//! use kata_sandbox::{ContainerSpec, MemorySize, Rootfs, Runtime, StdioMode};
//! use std::time::Duration;
//! use tokio::io::AsyncReadExt;
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let runtime = Runtime::builder()
//!     .state_dir("/run/user/1000/kata")
//!     .guest_image("/var/lib/kata/image")
//!     .build()?;
//! let sandbox = runtime.sandbox("demo").memory(MemorySize::mib(128)).start().await?;
//! let spec = ContainerSpec::new(Rootfs::Dir("/srv/alpine".into()))
//!     .command(["/bin/sh", "-c", "uname -a; exit 3"])
//!     .stdio(StdioMode::Piped);
//! let container = sandbox.container("c1", spec).await?;
//! let mut process = container.start().await?;
//! let mut output = String::new();
//! process.take_stdout().expect("piped").read_to_string(&mut output).await?;
//! println!("{output}{}", process.wait().await?);
//! sandbox.stop(Duration::from_secs(2)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What it does to the program that links it
//!
//! Everything runs on the caller's tokio runtime (time and I/O enabled), in
//! tasks that end with their sandbox. The library installs no logger and no
//! signal handler, reaps nobody else's children, reads neither environment nor
//! current directory, and never ends the process. Each wait has a deadline,
//! but for those that wait for a workload. Every future may be dropped at any
//! moment: what it began is finished or undone, and nothing is left behind.
//!
//! A sandbox lives as long as one of its handles ([`Sandbox`], [`Container`],
//! [`Process`], [`ProcessControl`]); with the last one its machine is killed
//! and everything of it on the host removed. One that is started with
//! [`OnDrop::Detach`] goes on instead, see [`supervisor`].
//!
//! Logs go to the `log` facade with the fields `sandbox_id` and `container_id`.

mod backends;
mod builder;
mod cgroup;
mod container;
mod copy;
mod dial;
mod engine;
mod error;
mod event;
mod exec;
mod exit;
mod forward;
mod home;
mod id;
mod image;
mod journal;
mod plan;
mod process;
mod processes;
mod recover;
mod registry;
mod runtime;
mod sandbox;
mod sizing;
mod spec;
mod state;
mod stats;
mod stdio;
pub mod supervisor;
mod timeline;

pub use builder::{OnDrop, SandboxBuilder};
pub use cgroup::cgroup_path;
pub use container::{Container, ContainerStatus};
pub use error::{Error, ErrorKind, Failures, Result};
pub use event::{Event, Events};
pub use exec::{Exec, Output};
pub use exit::{Exit, SandboxExit, Signal};
pub use forward::{Forwarding, Transport};
pub use plan::Plan;
pub use process::{Process, ProcessControl};
pub use processes::ProcessInfo;
pub use recover::Recovered;
pub use runtime::{Runtime, RuntimeBuilder};
pub use sandbox::{Sandbox, SandboxStatus};
pub use spec::{ContainerSpec, Mount, Namespace, Rootfs};
pub use state::{ContainerState, SandboxState};
pub use stats::{
    BlockStats, ContainerStats, GuestMemory, InterfaceStats, MemoryUse, Pressure,
    SandboxInterfaceStats, SandboxStats, Stall, Transfers,
};
pub use stdio::{PtySize, Reader, Stdin, StdioMode};
pub use supervisor::Supervisor;
pub use timeline::{Timeline, TimelinePhase};

/// Virtual machines: the traits, the backends, and what they are configured by.
pub use kata_hypervisor as hypervisor;
pub use kata_hypervisor::{Features, GuestStream, MemorySize, Probe, VmUsage};
/// Networks of sandboxes.
pub use kata_network as network;
/// The OCI runtime specification's types.
pub use oci_spec::runtime as oci;
