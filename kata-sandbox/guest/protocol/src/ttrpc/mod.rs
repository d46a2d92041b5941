//! ttRPC: gRPC's services without HTTP, for small memory.
//!
//! A connection carries frames of ten bytes of header and a payload
//! ([`frame`]). A [`Client`] has any number of unary calls in flight; a
//! [`serve`]d connection answers each in a task of its own, so a slow call
//! delays no other. Memory is bounded by the frame limit and the number of
//! calls, whatever the peer sends.

mod client;
pub mod frame;
mod server;
mod status;

pub use client::{CallError, Client};
pub use server::{Handler, serve};
pub use status::{Code, Status};
