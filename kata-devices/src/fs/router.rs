//! Each request, done by the share that it concerns.
//!
//! This is where names are one component and where what the guest holds is counted;
//! `route` says where a request goes, and whether it may. The guest controls all arguments.

use std::ffi::CStr;
use std::io;
use std::time::Duration;

use fuse_backend_rs::abi::fuse_abi::{CreateIn, stat64, statvfs64};
use fuse_backend_rs::api::filesystem::{
    Context, DirEntry, Entry, FileSystem, FsOptions, GetxattrReply, ListxattrReply, OpenOptions,
    SetattrValid, ZeroCopyReader, ZeroCopyWriter,
};

use super::root;
use super::route::{Place, Router};
use super::share::component;

/// The largest extended attribute or list of them on Linux.
const MAX_XATTR: u32 = 64 << 10;

/// The most that is read of a directory at once.
const MAX_READDIR: u32 = 1 << 20;

/// What is wanted of the guest's driver, as far as it can.
const WANTED: FsOptions = FsOptions::ASYNC_READ
    .union(FsOptions::BIG_WRITES)
    .union(FsOptions::MAX_PAGES)
    .union(FsOptions::ASYNC_DIO)
    .union(FsOptions::PARALLEL_DIROPS)
    .union(FsOptions::DO_READDIRPLUS)
    .union(FsOptions::READDIRPLUS_AUTO)
    .union(FsOptions::AUTO_INVAL_DATA)
    .union(FsOptions::ATOMIC_O_TRUNC)
    .union(FsOptions::CACHE_SYMLINKS)
    .union(FsOptions::HANDLE_KILLPRIV_V2);

impl FileSystem for Router {
    type Inode = u64;
    type Handle = u64;

    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        let options = capable & WANTED;
        self.tree.start(options);
        Ok(options)
    }

    fn destroy(&self) {
        self.tree.end();
    }

    fn id_remap(&self, ctx: &mut Context) -> io::Result<()> {
        if !self.acts_for_others {
            // As itself, whatever user of the guest asks.
            (ctx.uid, ctx.gid) = (0, 0);
        }
        Ok(())
    }

    fn lookup(&self, ctx: &Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        let name = component(name)?;
        match self.place(parent)? {
            Place::Root => {
                let name = name.to_str().map_err(|_| missing())?;
                let share = self.tree.read().by_name(name).ok_or_else(missing)?;
                share.root_entry(ctx)
            }
            Place::Share(share, inode) => {
                let entry = share.files().lookup(ctx, inode, name)?;
                share.hand_out(ctx, entry)
            }
        }
    }

    fn forget(&self, ctx: &Context, inode: u64, count: u64) {
        if let Ok(Place::Share(share, inode)) = self.place(inode) {
            share.forget(ctx, inode, count);
        }
    }

    fn getattr(
        &self,
        ctx: &Context,
        inode: u64,
        handle: Option<u64>,
    ) -> io::Result<(stat64, Duration)> {
        match self.place(inode)? {
            Place::Root => Ok(root::attributes(self.tree.read().len())),
            Place::Share(share, inode) => {
                let (attr, timeout) = share.files().getattr(ctx, inode, handle)?;
                Ok((share.attributes(inode, attr)?, timeout))
            }
        }
    }

    fn setattr(
        &self,
        ctx: &Context,
        inode: u64,
        attr: stat64,
        handle: Option<u64>,
        valid: SetattrValid,
    ) -> io::Result<(stat64, Duration)> {
        let (share, inode) = self.changed(inode)?;
        let (attr, timeout) = share.files().setattr(ctx, inode, attr, handle, valid)?;
        Ok((share.attributes(inode, attr)?, timeout))
    }

    fn readlink(&self, ctx: &Context, inode: u64) -> io::Result<Vec<u8>> {
        let (share, inode) = self.shared(inode)?;
        share.files().readlink(ctx, inode)
    }

    fn symlink(&self, ctx: &Context, target: &CStr, parent: u64, name: &CStr) -> io::Result<Entry> {
        let (share, parent) = self.changed(parent)?;
        let entry = share
            .files()
            .symlink(ctx, target, parent, component(name)?)?;
        share.hand_out(ctx, entry)
    }

    fn mknod(
        &self,
        ctx: &Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        rdev: u32,
        umask: u32,
    ) -> io::Result<Entry> {
        let (share, parent) = self.changed(parent)?;
        let entry = share
            .files()
            .mknod(ctx, parent, component(name)?, mode, rdev, umask)?;
        share.hand_out(ctx, entry)
    }

    fn mkdir(
        &self,
        ctx: &Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        umask: u32,
    ) -> io::Result<Entry> {
        let (share, parent) = self.changed(parent)?;
        let entry = share
            .files()
            .mkdir(ctx, parent, component(name)?, mode, umask)?;
        share.hand_out(ctx, entry)
    }

    fn unlink(&self, ctx: &Context, parent: u64, name: &CStr) -> io::Result<()> {
        let (share, parent) = self.changed(parent)?;
        share.files().unlink(ctx, parent, component(name)?)
    }

    fn rmdir(&self, ctx: &Context, parent: u64, name: &CStr) -> io::Result<()> {
        let (share, parent) = self.changed(parent)?;
        share.files().rmdir(ctx, parent, component(name)?)
    }

    fn rename(
        &self,
        ctx: &Context,
        old_parent: u64,
        old_name: &CStr,
        new_parent: u64,
        new_name: &CStr,
        flags: u32,
    ) -> io::Result<()> {
        let (share, from, to) = self.changed_both(old_parent, new_parent)?;
        let (old_name, new_name) = (component(old_name)?, component(new_name)?);
        share
            .files()
            .rename(ctx, from, old_name, to, new_name, flags)
    }

    fn link(
        &self,
        ctx: &Context,
        inode: u64,
        new_parent: u64,
        new_name: &CStr,
    ) -> io::Result<Entry> {
        let (share, inode, parent) = self.changed_both(inode, new_parent)?;
        let entry = share
            .files()
            .link(ctx, inode, parent, component(new_name)?)?;
        share.hand_out(ctx, entry)
    }

    fn open(
        &self,
        ctx: &Context,
        inode: u64,
        flags: u32,
        fuse_flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions, Option<u32>)> {
        let (share, inode) = self.shared(inode)?;
        let flags = share.open_flags(flags)?;
        let opened = share.files().open(ctx, inode, flags, fuse_flags)?;
        share.opened(ctx, opened.0, inode)?;
        Ok(opened)
    }

    fn create(
        &self,
        ctx: &Context,
        parent: u64,
        name: &CStr,
        mut args: CreateIn,
    ) -> io::Result<(Entry, Option<u64>, OpenOptions, Option<u32>)> {
        let (share, parent) = self.changed(parent)?;
        let exclusive = args.flags & libc::O_EXCL.cast_unsigned();
        args.flags = share.open_flags(args.flags)? | exclusive;
        let (entry, handle, options, backing) =
            share.files().create(ctx, parent, component(name)?, args)?;
        let inode = entry.inode;
        let opened = share.opened(ctx, handle, inode);
        let entry = share.hand_out(ctx, entry)?;
        if let Err(error) = opened {
            share.forget(ctx, inode, 1);
            return Err(error);
        }
        Ok((entry, handle, options, backing))
    }

    fn read(
        &self,
        ctx: &Context,
        inode: u64,
        handle: u64,
        to: &mut dyn ZeroCopyWriter,
        size: u32,
        offset: u64,
        lock_owner: Option<u64>,
        flags: u32,
    ) -> io::Result<usize> {
        let (share, inode) = self.shared(inode)?;
        let flags = share.io_flags(flags);
        share
            .files()
            .read(ctx, inode, handle, to, size, offset, lock_owner, flags)
    }

    fn write(
        &self,
        ctx: &Context,
        inode: u64,
        handle: u64,
        from: &mut dyn ZeroCopyReader,
        size: u32,
        offset: u64,
        lock_owner: Option<u64>,
        delayed_write: bool,
        flags: u32,
        fuse_flags: u32,
    ) -> io::Result<usize> {
        let (share, inode) = self.changed(inode)?;
        let flags = share.io_flags(flags);
        share.files().write(
            ctx,
            inode,
            handle,
            from,
            size,
            offset,
            lock_owner,
            delayed_write,
            flags,
            fuse_flags,
        )
    }

    fn flush(&self, ctx: &Context, inode: u64, handle: u64, lock_owner: u64) -> io::Result<()> {
        let (share, inode) = self.shared(inode)?;
        share.files().flush(ctx, inode, handle, lock_owner)
    }

    fn fsync(&self, ctx: &Context, inode: u64, datasync: bool, handle: u64) -> io::Result<()> {
        let (share, inode) = self.shared(inode)?;
        share.files().fsync(ctx, inode, datasync, handle)
    }

    fn fallocate(
        &self,
        ctx: &Context,
        inode: u64,
        handle: u64,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        let (share, inode) = self.changed(inode)?;
        share
            .files()
            .fallocate(ctx, inode, handle, mode, offset, length)
    }

    fn release(
        &self,
        ctx: &Context,
        inode: u64,
        flags: u32,
        handle: u64,
        flush: bool,
        flock_release: bool,
        lock_owner: Option<u64>,
    ) -> io::Result<()> {
        let (share, inode) = self.shared(inode)?;
        share
            .files()
            .release(ctx, inode, flags, handle, flush, flock_release, lock_owner)?;
        share.inventory().close(handle);
        Ok(())
    }

    fn statfs(&self, ctx: &Context, inode: u64) -> io::Result<statvfs64> {
        match self.place(inode)? {
            Place::Root => root::statistics(),
            Place::Share(share, inode) => share.files().statfs(ctx, inode),
        }
    }

    fn setxattr(
        &self,
        ctx: &Context,
        inode: u64,
        name: &CStr,
        value: &[u8],
        flags: u32,
    ) -> io::Result<()> {
        let (share, inode) = self.changed(inode)?;
        share.files().setxattr(ctx, inode, name, value, flags)
    }

    fn getxattr(
        &self,
        ctx: &Context,
        inode: u64,
        name: &CStr,
        size: u32,
    ) -> io::Result<GetxattrReply> {
        match self.place(inode)? {
            Place::Root => Err(io::Error::from_raw_os_error(libc::ENODATA)),
            Place::Share(share, inode) => {
                share
                    .files()
                    .getxattr(ctx, inode, name, size.min(MAX_XATTR))
            }
        }
    }

    fn listxattr(&self, ctx: &Context, inode: u64, size: u32) -> io::Result<ListxattrReply> {
        match self.place(inode)? {
            Place::Root if size == 0 => Ok(ListxattrReply::Count(0)),
            Place::Root => Ok(ListxattrReply::Names(Vec::new())),
            Place::Share(share, inode) => share.files().listxattr(ctx, inode, size.min(MAX_XATTR)),
        }
    }

    fn removexattr(&self, ctx: &Context, inode: u64, name: &CStr) -> io::Result<()> {
        let (share, inode) = self.changed(inode)?;
        share.files().removexattr(ctx, inode, name)
    }

    fn opendir(
        &self,
        ctx: &Context,
        inode: u64,
        flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions)> {
        match self.place(inode)? {
            Place::Root => Ok((None, OpenOptions::empty())),
            Place::Share(share, inode) => {
                let flags = share.directory_flags(flags);
                let opened = share.files().opendir(ctx, inode, flags)?;
                share.opened(ctx, opened.0, inode)?;
                Ok(opened)
            }
        }
    }

    fn readdir(
        &self,
        ctx: &Context,
        inode: u64,
        handle: u64,
        size: u32,
        offset: u64,
        add: &mut dyn FnMut(DirEntry<'_>) -> io::Result<usize>,
    ) -> io::Result<()> {
        match self.place(inode)? {
            Place::Root => root::list(&self.tree.read(), ctx, offset, &mut |entry, _| add(entry)),
            Place::Share(share, inode) => {
                let size = size.min(MAX_READDIR);
                share
                    .files()
                    .readdir(ctx, inode, handle, size, offset, &mut |mut entry| {
                        entry.ino = share.entry_number(entry.ino);
                        add(entry)
                    })
            }
        }
    }

    fn readdirplus(
        &self,
        ctx: &Context,
        inode: u64,
        handle: u64,
        size: u32,
        offset: u64,
        add: &mut dyn FnMut(DirEntry<'_>, Entry) -> io::Result<usize>,
    ) -> io::Result<()> {
        match self.place(inode)? {
            Place::Root => root::list(&self.tree.read(), ctx, offset, add),
            Place::Share(share, inode) => {
                let size = size.min(MAX_READDIR);
                let files = share.files();
                files.readdirplus(ctx, inode, handle, size, offset, &mut |mut entry, found| {
                    let inode = found.inode;
                    let found = share.hand_out(ctx, found)?;
                    entry.ino = found.inode;
                    let added = add(entry, found);
                    if matches!(added, Ok(0)) {
                        // The passthrough file system takes its own count back.
                        share.inventory().forget(inode, 1);
                    }
                    added
                })
            }
        }
    }

    fn fsyncdir(&self, ctx: &Context, inode: u64, datasync: bool, handle: u64) -> io::Result<()> {
        match self.place(inode)? {
            Place::Root => Ok(()),
            Place::Share(share, inode) => share.files().fsyncdir(ctx, inode, datasync, handle),
        }
    }

    fn releasedir(&self, ctx: &Context, inode: u64, flags: u32, handle: u64) -> io::Result<()> {
        match self.place(inode)? {
            Place::Root => Ok(()),
            Place::Share(share, inode) => {
                share.files().releasedir(ctx, inode, flags, handle)?;
                share.inventory().close(handle);
                Ok(())
            }
        }
    }

    fn access(&self, ctx: &Context, inode: u64, mask: u32) -> io::Result<()> {
        match self.place(inode)? {
            Place::Root => Ok(()),
            Place::Share(share, inode) => {
                if mask & libc::W_OK.cast_unsigned() != 0 {
                    share.writable()?;
                }
                share.files().access(ctx, inode, mask)
            }
        }
    }

    fn lseek(
        &self,
        ctx: &Context,
        inode: u64,
        handle: u64,
        offset: u64,
        whence: u32,
    ) -> io::Result<u64> {
        let (share, inode) = self.shared(inode)?;
        share.files().lseek(ctx, inode, handle, offset, whence)
    }
}

fn missing() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOENT)
}
