//! Vsock ports that the agent and the runtime agree on.

/// Guest: the agent's calls.
///
/// Host: the agent's announcement. As soon as it serves, the agent dials this
/// port on the host (CID 2) and serves calls on that very connection, so the
/// runtime need not poll. A host that does not listen refuses, and the agent
/// waits to be dialled as Kata's does.
pub const AGENT: u32 = 1024;
/// Guest: the agent's log, when the kernel command line has `agent.log_vport`.
pub const LOG: u32 = 1025;
/// Guest: a debug console, when the kernel command line asks for one.
pub const DEBUG_CONSOLE: u32 = 1026;
/// Guest: standard streams of processes. A stream is named in a request by the
/// port it was dialled *from*.
pub const STDIO: u32 = 1027;
/// Guest: [`channel`](crate::channel) streams; an addition of this project.
pub const CHANNEL: u32 = 1028;

/// Named in a request in place of a stream's port: the process gets `/dev/null`
/// there. An addition of this project: with Kata's agent it is a port that no
/// stream comes from. Vsock never gives this port out (`VMADDR_PORT_ANY`).
pub const NONE: u32 = u32::MAX;

/// The host's vsock address as a guest sees it.
pub const HOST_CID: u32 = 2;
