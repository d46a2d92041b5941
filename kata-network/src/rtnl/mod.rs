//! The kernel's routing netlink (`rtnetlink(7)`), in the network namespace of
//! the calling thread.
//!
//! The kernel carries a request out while it is sent, and its answers are then
//! there to be read: nothing here waits for anybody else. Messages are those of
//! the `netlink-packet-route` crate.

mod links;
mod redirect;
mod shape;
mod socket;

pub(crate) use links::{Link, tap_up};
pub(crate) use redirect::{redirect, undo_redirect};
pub(crate) use shape::{shape, unshape};
pub(crate) use socket::Rtnl;
#[cfg(any(test, feature = "testing"))]
pub(crate) use socket::parse;
