//! virtio-vsock: streams between guest and host (virtio 1.2 §5.10).
//!
//! On the host side streams are unix sockets, so no kernel module is needed.
//! The host dials the guest on [`VsockConfig::socket`] with one line,
//! `CONNECT <port>\n`, and gets `OK <host port>\n` once the guest accepted, or
//! the end of the stream if it did not. What the guest dials goes to the unix
//! socket `<socket>_<port>`.
//!
//! ```text
//!            Device                    Muxer                     Connection
//!   rings ◀─▶ packets ──[Channel]──▶ who is it for ──▶ state, credit ──[Stream]──▶ socket
//!             RxSink ◀──────────────  whose turn is it
//! ```
//!
//! The three meet only at the traits [`Channel`], [`RxSink`] and `Stream`.
//!
//! # Bounds
//! A stream buffers at most [`BUFFER`] bytes of what the guest sent and the host
//! does not read; the guest is told so and a guest that ignores it is reset.
//! The other way nothing is buffered: bytes stay in the unix socket until the
//! guest has credit and buffers for them. There are at most [`MAX_STREAMS`]
//! streams per device.

mod backlog;
mod config;
mod connection;
mod credit;
mod device;
mod door;
mod entry;
mod handshake;
mod muxer;
mod packet;
mod ports;
mod rx;
mod served;
mod sockets;
mod streams;

pub use config::VsockConfig;
pub use connection::BUFFER;
pub use device::{Channel, Counters, Device, RX_QUEUE, RxData, RxSink, TX_QUEUE};
pub use muxer::MAX_STREAMS;
pub use packet::{HEADER_LEN, Header, Operation};
pub(crate) use served::Served;
