//! virtio-fs: directories and files of the host in the guest (virtio 1.2 §5.11).
//!
//! A [`SharedTree`] is one file system for the guest, in whose root each share
//! has a name; shares come and go while it is served. A share is a directory or
//! a single file of the host, passed through by file descriptors: a share never
//! reaches above its root or beside its file, whatever the guest asks for and
//! whatever moves on the host.
//!
//! ```text
//!   rings ──▶ Pool (threads) ──▶ FUSE server ──▶ Router ──▶ share "rootfs" (passthrough)
//!                                                       └─▶ share "resolv.conf" …
//! ```
//!
//! # Who sees what, when
//! Both sides may change what is shared. The guest caches names and attributes
//! for at most a second, and file contents until the next `open` or until it sees
//! another time or size (close-to-open); names of shares it does not cache.
//! Writes of the guest are on the host when `write` returns.
//!
//! # Who owns what
//! When the host process is root, files belong to the user in the guest that
//! made them. Otherwise everything the guest does is done, and owned, by the
//! host process's own user.
//!
//! # Bounds
//! Each file that the guest's kernel knows or has open costs a descriptor of
//! this process. All shares of a tree together use at most half of the
//! process's soft limit (`RLIMIT_NOFILE`); beyond, the guest gets `ENFILE`.
//! Hosts whose guests use large trees should raise that limit.
//!
//! Guest-controlled: requests as a whole, in any order and for any inode.

mod credentials;
mod device;
mod id;
mod inventory;
mod pool;
mod root;
mod route;
mod router;
mod served;
mod share;
#[cfg(test)]
mod tests;
mod tree;

pub(crate) use served::Served;
pub use tree::{Access, FsConfig, SharedTree};
