//! One share: a directory or a file of the host.

use std::ffi::CStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fuse_backend_rs::abi::fuse_abi::stat64;
use fuse_backend_rs::api::filesystem::{Context, Entry, FileSystem, FsOptions};
use fuse_backend_rs::passthrough::{CachePolicy, Config, PassthroughFs};

use super::credentials;
use super::id::{Id, SHARE_ROOT};
use super::inventory::{Budget, Inventory};
use super::tree::Access;

/// How long the guest may believe names and attributes.
const CACHED: Duration = Duration::from_secs(1);

/// Flags of `open` that the host gets to see. `O_DIRECT` concerns the guest's
/// cache alone, and `O_NOATIME` is only for owners.
const OPEN_FLAGS: i32 = libc::O_ACCMODE
    | libc::O_APPEND
    | libc::O_TRUNC
    | libc::O_NONBLOCK
    | libc::O_DSYNC
    | libc::O_SYNC
    | libc::O_LARGEFILE
    | libc::O_DIRECTORY
    | libc::O_NOFOLLOW;

/// A directory or file that the guest may use.
pub(super) struct Share {
    number: u16,
    access: Access,
    files: PassthroughFs<()>,
    inventory: Inventory,
}

impl std::fmt::Debug for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Share")
            .field("number", &self.number)
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}

impl Share {
    /// Opens `path`. From here on its inode counts, not its name.
    pub(super) fn open(path: &Path, access: Access, budget: Arc<Budget>) -> io::Result<Self> {
        let path = std::fs::canonicalize(path)?;
        let kind = std::fs::metadata(&path)?.file_type();
        if !kind.is_dir() && !kind.is_file() {
            return Err(invalid("it is neither a directory nor a regular file"));
        }
        let root = path
            .to_str()
            .ok_or_else(|| invalid("its path is not UTF-8"))?
            .to_owned();
        let files = import(root)?;
        Ok(Self {
            number: 0,
            access,
            files,
            inventory: Inventory::new(budget),
        })
    }

    /// Gives it its place in the tree.
    pub(super) fn numbered(self, number: u16) -> Self {
        Self { number, ..self }
    }

    /// Applies what was negotiated with the guest.
    pub(super) fn negotiated(&self, options: FsOptions) {
        // It keeps what it knows of these; all others are decided for all shares.
        let _ = self.files.init(options & FsOptions::HANDLE_KILLPRIV_V2);
    }

    pub(super) fn files(&self) -> &PassthroughFs<()> {
        &self.files
    }

    pub(super) fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// Passes if the guest may change things.
    pub(super) fn writable(&self) -> io::Result<()> {
        match self.access {
            Access::ReadWrite => Ok(()),
            Access::ReadOnly => Err(io::Error::from_raw_os_error(libc::EROFS)),
        }
    }

    /// The flags with which a file is opened for the guest, if it may be.
    pub(super) fn open_flags(&self, flags: u32) -> io::Result<u32> {
        let allowed = flags & OPEN_FLAGS.cast_unsigned();
        let changes = (libc::O_ACCMODE | libc::O_TRUNC | libc::O_APPEND).cast_unsigned();
        if flags & changes != 0 {
            self.writable()?;
        }
        Ok(allowed)
    }

    /// The flags that a file had when it was opened, as far as the host saw them.
    pub(super) fn io_flags(&self, flags: u32) -> u32 {
        flags & OPEN_FLAGS.cast_unsigned() & !libc::O_TRUNC.cast_unsigned()
    }

    /// The flags with which a directory is opened: to be read, whatever is asked.
    pub(super) fn directory_flags(&self, flags: u32) -> u32 {
        flags & (libc::O_DIRECTORY | libc::O_LARGEFILE | libc::O_NOFOLLOW).cast_unsigned()
    }

    /// The entry of the share's root in the tree. It is not cached: names of
    /// shares come and go.
    pub(super) fn root_entry(&self, ctx: &Context) -> io::Result<Entry> {
        let (mut attr, attr_timeout) = self.files.getattr(ctx, SHARE_ROOT, None)?;
        let inode = Id::to_guest(self.number, SHARE_ROOT)?;
        attr.st_ino = inode;
        Ok(Entry {
            inode,
            generation: 0,
            attr,
            attr_flags: 0,
            attr_timeout,
            entry_timeout: Duration::ZERO,
        })
    }

    /// Hands an entry to the guest, which knows one look-up more after this.
    pub(super) fn hand_out(&self, ctx: &Context, mut entry: Entry) -> io::Result<Entry> {
        let inode = entry.inode;
        let counted = if inode == SHARE_ROOT {
            Ok(())
        } else {
            self.inventory.look_up(inode)
        };
        match counted.and_then(|()| Id::to_guest(self.number, inode)) {
            Ok(number) => {
                entry.inode = number;
                entry.attr.st_ino = number;
                Ok(entry)
            }
            Err(error) => {
                self.inventory.forget(inode, 1);
                self.files.forget(ctx, inode, 1);
                Err(error)
            }
        }
    }

    /// Attributes as the guest sees them.
    pub(super) fn attributes(&self, inode: u64, mut attr: stat64) -> io::Result<stat64> {
        attr.st_ino = Id::to_guest(self.number, inode)?;
        Ok(attr)
    }

    /// The number of a directory's entry that is not looked up.
    pub(super) fn entry_number(&self, host_inode: u64) -> u64 {
        Id::entry_to_guest(self.number, host_inode)
    }

    pub(super) fn forget(&self, ctx: &Context, inode: u64, count: u64) {
        let forgotten = self.inventory.forget(inode, count);
        if forgotten > 0 {
            self.files.forget(ctx, inode, forgotten);
        }
    }

    /// Takes a freshly opened file into account, or closes it again.
    pub(super) fn opened(&self, ctx: &Context, handle: Option<u64>, inode: u64) -> io::Result<()> {
        let Some(handle) = handle else { return Ok(()) };
        self.inventory
            .open(handle, inode)
            .inspect_err(|_| self.release(ctx, handle, inode))
    }

    /// The guest has no inode and no open file any more.
    pub(super) fn forget_all(&self) {
        let ctx = Context::default();
        let held = self.inventory.clear();
        for (handle, inode) in held.handles {
            self.release(&ctx, handle, inode);
        }
        for (inode, count) in held.inodes {
            self.files.forget(&ctx, inode, count);
        }
    }

    fn release(&self, ctx: &Context, handle: u64, inode: u64) {
        // It fails for what is not open, which is what is wanted.
        let _ = self
            .files
            .release(ctx, inode, 0, handle, false, false, None);
    }
}

/// Passes a name of the guest if it is one component.
pub(super) fn component(name: &CStr) -> io::Result<&CStr> {
    let bytes = name.to_bytes();
    if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    Ok(name)
}

/// Makes the passthrough file system, on a thread that may lose its umask.
fn import(root_dir: String) -> io::Result<PassthroughFs<()>> {
    let config = Config {
        root_dir,
        entry_timeout: CACHED,
        attr_timeout: CACHED,
        cache_policy: CachePolicy::Auto,
        writeback: false,
        xattr: true,
        do_import: false,
        killpriv_v2: true,
        use_host_ino: true,
        allow_direct_io: false,
        ..Config::default()
    };
    let make = || {
        credentials::sparing_the_umask(|| {
            let files = PassthroughFs::new(config)?;
            files.import()?;
            Ok(files)
        })
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("kata-fs-share".to_owned());
        let thread = thread.stack_size(256 << 10).spawn_scoped(scope, make)?;
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the share could not be opened")))
    })
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason)
}
