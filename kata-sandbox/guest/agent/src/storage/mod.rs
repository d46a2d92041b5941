//! Storages: what is mounted for the sandbox or for a container before it is
//! made, and unmounted when the last one that asked for it is gone.
//!
//! Anything that may wait for the host (a share, a disk) is mounted in a child
//! process. What concerns one mount point happens one after the other; nothing
//! waits for another's.

mod block;
mod devices;
mod driver;
mod group;
mod options;

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use kata_protocol::agent::{CreateContainerRequest, Storage};
use kata_protocol::ttrpc::{Code, Status};
use tokio::sync::Mutex;

pub(crate) use block::pci_directory;
pub(crate) use devices::TYPES as DEVICE_TYPES;
pub(crate) use driver::DRIVERS;
use driver::Undo;

use crate::service::invalid;

/// The owner of what is there for all containers; no container has this id.
pub(crate) const SANDBOX: &str = "";

/// What is mounted, and for whom.
#[derive(Debug)]
pub(crate) struct Storages {
    hotplug_timeout: Duration,
    mounts: RefCell<HashMap<PathBuf, Rc<Mount>>>,
    owners: RefCell<HashMap<String, Claims>>,
}

/// Mount points that somebody asked for, in that order.
pub(crate) type Claims = Vec<PathBuf>;

/// A mount point.
#[derive(Debug, Default)]
struct Mount {
    claims: std::cell::Cell<usize>,
    /// Held while it is being mounted or unmounted.
    state: Mutex<Option<Mounted>>,
}

#[derive(Debug)]
struct Mounted {
    storage: Storage,
    undo: Undo,
}

impl Storages {
    /// Nothing is mounted; devices are waited for as long as given.
    pub(crate) fn new(hotplug_timeout: Duration) -> Self {
        Self {
            hotplug_timeout,
            mounts: RefCell::default(),
            owners: RefCell::default(),
        }
    }

    /// Mounts what a container asks for, and completes its specification with
    /// the numbers that its devices have in this machine.
    pub(crate) async fn prepare(
        &self,
        request: &mut CreateContainerRequest,
    ) -> Result<Claims, Status> {
        let mut claims = Claims::new();
        let prepared = self.prepare_into(request, &mut claims).await;
        if let Err(status) = prepared {
            self.give_up_or_log(claims).await;
            return Err(status);
        }
        Ok(claims)
    }

    async fn prepare_into(
        &self,
        request: &mut CreateContainerRequest,
        claims: &mut Claims,
    ) -> Result<(), Status> {
        for storage in &request.storages {
            claims.push(self.claim(storage).await?);
        }
        devices::complete(request, self.hotplug_timeout).await
    }

    /// Notes that `claims` are `owner`'s.
    pub(crate) fn keep(&self, owner: &str, claims: Claims) {
        if !claims.is_empty() {
            self.owners
                .borrow_mut()
                .entry(owner.to_owned())
                .or_default()
                .extend(claims);
        }
    }

    /// Mounts `storage` for `owner`.
    pub(crate) async fn add(&self, owner: &str, storage: &Storage) -> Result<(), Status> {
        let claim = self.claim(storage).await?;
        self.keep(owner, vec![claim]);
        Ok(())
    }

    /// Unmounts what only `owner` still needed.
    pub(crate) async fn release(&self, owner: &str) -> Result<(), Status> {
        let claims = self.owners.borrow_mut().remove(owner).unwrap_or_default();
        self.give_up(claims).await
    }

    /// Unmounts everything.
    pub(crate) async fn release_all(&self) -> Result<(), Status> {
        let owners = std::mem::take(&mut *self.owners.borrow_mut());
        let (sandbox, containers): (Vec<_>, Vec<_>) =
            owners.into_iter().partition(|(owner, _)| owner == SANDBOX);
        let mut result = Ok(());
        // The containers' may lie in the sandbox's.
        for (_, claims) in containers.into_iter().chain(sandbox) {
            result = result.and(self.give_up(claims).await);
        }
        result
    }

    /// Undoes claims, the last first, past failures; gives the first.
    pub(crate) async fn give_up(&self, claims: Claims) -> Result<(), Status> {
        let mut result = Ok(());
        for target in claims.into_iter().rev() {
            result = result.and(self.unclaim(&target).await);
        }
        result
    }

    /// Undoes claims of what failed already for another reason.
    pub(crate) async fn give_up_or_log(&self, claims: Claims) {
        if let Err(error) = self.give_up(claims).await {
            log::warn!(error:% = error; "a storage was not undone");
        }
    }

    async fn claim(&self, storage: &Storage) -> Result<PathBuf, Status> {
        let target = check_target(&storage.mount_point)?;
        let mount = Rc::clone(self.mounts.borrow_mut().entry(target.clone()).or_default());
        mount.claims.set(mount.claims.get() + 1);
        let mut state = mount.state.lock().await;
        let outcome = match &*state {
            Some(there) if same(&there.storage, storage) => Ok(()),
            Some(_) => Err(Status::new(
                Code::AlreadyExists,
                format!("something else is mounted on {}", target.display()),
            )),
            None => driver::mount(storage, &target, self.hotplug_timeout)
                .await
                .map(|undo| {
                    *state = Some(Mounted {
                        storage: storage.clone(),
                        undo,
                    });
                }),
        };
        drop(state);
        match outcome {
            Ok(()) => Ok(target),
            Err(status) => {
                self.give_up_or_log(vec![target]).await;
                Err(status)
            }
        }
    }

    async fn unclaim(&self, target: &Path) -> Result<(), Status> {
        let Some(mount) = self.mounts.borrow().get(target).cloned() else {
            return Ok(());
        };
        mount.claims.set(mount.claims.get().saturating_sub(1));
        let mut state = mount.state.lock().await;
        if mount.claims.get() > 0 {
            return Ok(());
        }
        let undone = match state.take() {
            Some(mounted) => mounted.undo.run(target).await,
            None => Ok(()),
        };
        // Another may have claimed it meanwhile, and waits for `state`.
        if mount.claims.get() == 0 {
            self.mounts.borrow_mut().remove(target);
        }
        undone
    }
}

/// Whether two requests mean the same mount.
fn same(there: &Storage, wanted: &Storage) -> bool {
    there.driver == wanted.driver
        && there.source == wanted.source
        && there.fstype == wanted.fstype
        && there.options == wanted.options
}

/// A mount point is an absolute path that goes straight down.
fn check_target(text: &str) -> Result<PathBuf, Status> {
    let path = Path::new(text);
    let straight = path
        .components()
        .skip(1)
        .all(|part| matches!(part, Component::Normal(_)));
    if path.is_absolute() && path.parent().is_some() && straight && !text.contains('\0') {
        // Without doubled or trailing slashes: it is a key.
        Ok(path.components().collect())
    } else {
        Err(invalid(format!("{text:?} is no mount point")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_that_lead_elsewhere_are_refused() {
        for bad in ["", "/", "run/x", "/run/../etc", "/run/a\0b"] {
            assert!(check_target(bad).is_err(), "{bad:?}");
        }
        assert_eq!(check_target("/run//a/").unwrap(), Path::new("/run/a"));
        assert_eq!(check_target("/run//a/").unwrap().as_os_str(), "/run/a");
    }

    #[tokio::test]
    async fn an_unknown_driver_is_named() {
        let storages = Storages::new(Duration::from_millis(1));
        let storage = Storage {
            driver: "floppy".into(),
            mount_point: "/run/x".into(),
            ..Storage::default()
        };
        let status = storages.add("c", &storage).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented);
        assert!(status.message.contains("floppy"));
        assert!(storages.mounts.borrow().is_empty());
    }
}
