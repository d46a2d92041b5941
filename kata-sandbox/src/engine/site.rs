//! What a sandbox has on the host, and how it is taken away.

use std::io;
use std::sync::Arc;

use kata_hypervisor::{StopMode, Vm, VmExit};
use kata_network::{Endpoint, Lease, Network, SetupRequest};
use tokio::runtime::Handle;

use super::finish::{finish, tell_ends};
use crate::cgroup::{Cgroup, CgroupError, Plan};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::journal::{
    Claim, HooksRecord, JournalError, Left, NetworkRecord, ProcessId, Record, SandboxDir, StateDir,
    Steps,
};
use crate::registry::Reservation;

/// The host resources of one sandbox, made top to bottom and taken away bottom
/// to top. Dropping it is the last resort; [`Site::clear`] is the proper way.
#[derive(Debug)]
pub(crate) struct Site {
    id: String,
    reservation: Option<Reservation>,
    dir: Option<SandboxDir>,
    /// Whether the directory stays until the id is free, for those who ask
    /// after a sandbox that has ended.
    stays: bool,
    cgroup: Option<Cgroup>,
    network: Option<NetworkSetup>,
    /// Networks that were added, with what they call the sandbox.
    added: Vec<(String, Arc<dyn Network>)>,
    vm: Option<Arc<dyn Vm>>,
    steps: Steps,
    /// To tear the network down when nobody is left to wait for it.
    runtime: Handle,
}

/// A network that was, or may have been, set up for the sandbox.
#[derive(Debug)]
struct NetworkSetup(Arc<dyn Network>);

impl Site {
    pub(crate) fn new(id: &str, reservation: Reservation, stays: bool, steps: Steps) -> Self {
        Self {
            steps,
            id: id.to_owned(),
            reservation: Some(reservation),
            dir: None,
            stays,
            cgroup: None,
            network: None,
            added: Vec::new(),
            vm: None,
            runtime: Handle::current(),
        }
    }

    pub(crate) fn set_dir(&mut self, dir: SandboxDir) {
        self.dir = Some(dir);
    }

    /// Writes down which programs are to hear of a container's end.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub(crate) async fn note_hooks(&mut self, hooks: HooksRecord, context: &Context) -> Result<()> {
        self.note(|record| record.hooks.push(hooks), context).await
    }

    /// Writes down that they have heard of it.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub(crate) async fn note_heard(&mut self, container: &str, context: &Context) -> Result<()> {
        let others = |hooks: &HooksRecord| hooks.container != container;
        self.note(|record| record.hooks.retain(others), context)
            .await
    }

    /// Writes down that a network is about to be added.
    ///
    /// # Errors
    /// When the sandbox has ended, or the record cannot be written.
    pub(crate) async fn add_network(
        &mut self,
        subject: &str,
        network: Arc<dyn Network>,
        context: &Context,
    ) -> Result<()> {
        if self.vm.is_none() {
            return Err(context.error(ErrorKind::InvalidState, "the sandbox has ended"));
        }
        let noted = NetworkRecord {
            subject: Some(subject.to_owned()),
            ..NetworkRecord::of(&*network)
        };
        // Torn down with all else from here on, whatever becomes of the note.
        self.added.push((subject.to_owned(), network));
        self.note(|record| record.added.push(noted), context).await
    }

    /// Tears a network down that was added, if it still is there.
    ///
    /// # Errors
    /// When something of it is left; it is tried again when the sandbox ends.
    pub(crate) async fn remove_network(&mut self, subject: &str, context: &Context) -> Result<()> {
        let index = self.added.iter().position(|(added, _)| added == subject);
        let Some(index) = index else {
            return Ok(());
        };
        let torn_down = self.added[index].1.teardown(subject).await;
        torn_down.map_err(|error| context.network(error))?;
        self.added.remove(index);
        let others = |noted: &NetworkRecord| noted.subject.as_deref() != Some(subject);
        self.note(|record| record.added.retain(others), context)
            .await
    }

    /// The network that is to be torn down next.
    fn last_network(&self) -> Option<(String, Arc<dyn Network>)> {
        let first = self.network.as_ref();
        let first = first.map(|NetworkSetup(network)| (self.id.clone(), Arc::clone(network)));
        self.added.last().cloned().or(first)
    }

    /// All networks, in the order in which they are torn down.
    fn take_networks(&mut self) -> Vec<(String, Arc<dyn Network>)> {
        let first = self.network.take();
        let first = first.map(|NetworkSetup(network)| (self.id.clone(), network));
        let mut networks: Vec<_> = first.into_iter().chain(self.added.drain(..)).collect();
        networks.reverse();
        networks
    }

    async fn note(&mut self, change: impl FnOnce(&mut Record), context: &Context) -> Result<()> {
        note(self.dir.as_mut(), change, context).await
    }

    pub(crate) fn set_cgroup(&mut self, cgroup: Cgroup) {
        self.cgroup = Some(cgroup);
    }

    /// The places that network and machine are to be noted in, side by side.
    pub(crate) fn places(&mut self) -> (NetworkPlace<'_>, MachinePlace<'_>) {
        let network = NetworkPlace {
            id: &self.id,
            setup: &mut self.network,
        };
        let machine = MachinePlace {
            vm: &mut self.vm,
            dir: self.dir.as_mut(),
        };
        (network, machine)
    }

    pub(crate) fn vm(&self) -> Option<&Arc<dyn Vm>> {
        self.vm.as_ref()
    }

    /// Ends the machine and takes everything away, past what fails.
    pub(crate) async fn clear(&mut self, how: StopMode) -> (Option<VmExit>, Vec<Error>) {
        let context = Context::new("clean up sandbox", &*self.id);
        let mut failures = Vec::new();
        let mut exit = None;
        if let Some(vm) = &self.vm {
            match vm.stop(how).await {
                Ok(how) => exit = Some(how),
                Err(error) => failures.push(context.vm(error)),
            }
            self.vm = None;
            self.steps.reach("machine ended");
        }
        // Each is taken out when it is done: a future that is dropped leaves the rest.
        while let Some((subject, network)) = self.last_network() {
            let torn_down = network.teardown(&subject).await;
            if self.added.pop().is_none() {
                self.network = None;
            }
            self.steps.reach("network torn down");
            if let Err(error) = torn_down {
                failures.push(context.network(error));
                // Its record says what to tear down: a later start tries again.
                if let Some(dir) = self.dir.take() {
                    dir.leave();
                }
            }
        }
        if let Some(Err(error)) = self.cgroup.take().map(Cgroup::remove) {
            failures.push(cgroup_error(&context, error));
            if let Some(dir) = self.dir.take() {
                dir.leave(); // as above
            }
        }
        let removed = match &self.dir {
            Some(dir) if self.stays || dir.has_hooks() => dir.remove_run_dir(),
            _ => self.dir.take().map_or(Ok(()), SandboxDir::remove),
        };
        if let Err(error) = removed {
            failures.push(journal_error(&context, error));
        }
        (exit, failures)
    }

    /// Removes what stayed, and lets others have the id.
    pub(crate) fn free_id(&mut self) -> Result<()> {
        let removed = self.dir.take().map_or(Ok(()), SandboxDir::remove);
        self.reservation = None;
        let context = Context::new("clean up sandbox", &*self.id);
        removed.map_err(|error| journal_error(&context, error))
    }
}

/// Where a machine is noted.
pub(crate) struct MachinePlace<'a> {
    vm: &'a mut Option<Arc<dyn Vm>>,
    dir: Option<&'a mut SandboxDir>,
}

impl MachinePlace<'_> {
    /// From here on it ends with the sandbox.
    pub(crate) fn set(&mut self, vm: Box<dyn Vm>) -> Arc<dyn Vm> {
        Arc::clone(self.vm.insert(Arc::from(vm)))
    }

    /// Writes down which process runs the machine.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub(crate) async fn note_monitor(&mut self, pid: u32, context: &Context) -> Result<()> {
        let monitor = ProcessId::of(pid);
        let change = |record: &mut Record| record.monitor = Some(monitor);
        note(self.dir.as_deref_mut(), change, context).await
    }
}

/// Changes the record of a sandbox that has one.
async fn note(
    dir: Option<&mut SandboxDir>,
    change: impl FnOnce(&mut Record),
    context: &Context,
) -> Result<()> {
    let Some(dir) = dir else {
        return Ok(());
    };
    let note = dir.note(change);
    let noted = tokio::task::spawn_blocking(note).await;
    noted
        .map_err(|error| context.join(error))?
        .map_err(|error| journal_error(context, error))
}

/// Where a network's set-up is noted.
pub(crate) struct NetworkPlace<'a> {
    id: &'a str,
    setup: &'a mut Option<NetworkSetup>,
}

impl NetworkPlace<'_> {
    /// Has the network make devices ahead. Noted before it begins: what is given
    /// up half-way is torn down too.
    pub(crate) async fn reserve(
        &mut self,
        network: &Arc<dyn Network>,
        processors: u32,
    ) -> kata_network::Result<Vec<Endpoint>> {
        let request = self.note(network, processors);
        network.reserve(&request).await
    }

    fn note(&mut self, network: &Arc<dyn Network>, processors: u32) -> SetupRequest {
        if !network.leaves_nothing() {
            *self.setup = Some(NetworkSetup(Arc::clone(network)));
        }
        SetupRequest::new(self.id).processors(processors)
    }

    /// Sets the network up. Noted before it begins: a set-up that is given up
    /// half-way is torn down too.
    pub(crate) async fn set_up(
        &mut self,
        network: &Arc<dyn Network>,
        processors: u32,
    ) -> kata_network::Result<Lease> {
        let request = self.note(network, processors);
        let lease = network.setup(&request).await?;
        if lease.is_empty() {
            *self.setup = None;
        }
        Ok(lease)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.vm = None; // kills it
        self.cgroup = None;
        let networks = self.take_networks();
        let has_hooks = self.dir.as_ref().is_some_and(SandboxDir::has_hooks);
        if networks.is_empty() && !has_hooks {
            return;
        }
        // From here on the directory says what is left to do, in case that the
        // runtime is shutting down and the task never ends.
        let (id, reservation) = (self.id.clone(), self.reservation.take());
        let left = self.dir.take().map(SandboxDir::until_done);
        self.runtime.spawn(async move {
            if let Err(error) = give_up(&id, networks, left).await {
                log::warn!(sandbox_id = id.as_str(), error:%; "left behind");
            }
            drop(reservation);
        });
    }
}

/// Does what is left to do for a sandbox that nobody waits for.
async fn give_up(
    id: &str,
    networks: Vec<(String, Arc<dyn Network>)>,
    left: Option<Left>,
) -> Result<()> {
    let context = Context::new("clean up sandbox", id);
    let mut left = left;
    if let Some(left) = &mut left {
        tell_ends(left, &context).await?;
    }
    for (subject, network) in networks {
        let torn_down = network.teardown(&subject).await;
        torn_down.map_err(|error| context.network(error))?;
    }
    let removed = left.map_or(Ok(()), Left::remove);
    removed.map_err(|error| journal_error(&context, error))
}

/// Notes on disk that the sandbox is about to be made, after what a dead
/// process left of one with that id has been torn down.
pub(crate) async fn open_journal(
    state: &StateDir,
    network: &Arc<dyn Network>,
    id: &str,
    cgroup: Option<&Plan>,
    context: &Context,
) -> Result<SandboxDir> {
    let to_tear_down = (!network.leaves_nothing()).then(|| NetworkRecord::of(&**network));
    let mut record = Record::new(id, to_tear_down);
    record.cgroups = cgroup.map(Plan::missing).unwrap_or_default().to_vec();
    loop {
        let (state, record) = (state.clone(), record.clone());
        let claimed = tokio::task::spawn_blocking(move || state.claim(&record)).await;
        let claimed = claimed
            .map_err(|e| context.join(e))?
            .map_err(|e| journal_error(context, e))?;
        let left = match claimed {
            Claim::New(dir) => return Ok(dir),
            Claim::Stale(left) => left,
        };
        // With that, the next claim finds nothing.
        let left = finish(left, network, context).await?;
        left.remove().map_err(|e| journal_error(context, e))?;
    }
}

pub(super) fn cgroup_error(context: &Context, error: CgroupError) -> Error {
    let kind = match &error {
        CgroupError::Path { .. } => ErrorKind::InvalidConfig,
        CgroupError::None => ErrorKind::Unsupported,
        CgroupError::Io { source, .. } => ErrorKind::of_io(source),
    };
    let reason = error.to_string();
    let error = match error {
        CgroupError::Io { source, .. } => context.error(kind, reason).caused_by(source),
        _ => context.error(kind, reason),
    };
    let error = error.during("control group");
    match kind {
        ErrorKind::Denied => error
            .with_remedy("run as root, or name a control group that this user may make groups in"),
        _ => error,
    }
}

pub(crate) fn journal_error(context: &Context, error: JournalError) -> Error {
    match error {
        JournalError::InUse { owner, .. } => {
            let by = owner.map_or_else(String::new, |pid| format!(" by process {pid}"));
            context.error(
                ErrorKind::AlreadyExists,
                format!("its state directory is in use{by}"),
            )
        }
        JournalError::NoDirectory(path) => {
            let reason = format!("the state directory {} is a file", path.display());
            let error = context.invalid(reason);
            error.with_remedy("give the runtime a directory, or the name of one to be made")
        }
        error @ JournalError::NotOurs { .. } => {
            let error = context.error(ErrorKind::Denied, error.to_string());
            error.with_remedy(
                "give the runtime a directory of this user's own (chown, chmod go-w), by its real \
                 path",
            )
        }
        JournalError::Unreadable { path, reason } => {
            let what = format!("its record {} cannot be read: {reason}", path.display());
            let directory = path.parent().unwrap_or(&path).display().to_string();
            let error = context.error(ErrorKind::InvalidState, what);
            error.with_remedy(format!(
                "recover with the program that wrote it; or see by hand to what it had on the \
                 host, and remove {directory}"
            ))
        }
        JournalError::Io {
            operation,
            path,
            source,
        } => {
            let remedy = match source.kind() {
                io::ErrorKind::PermissionDenied => "give this user a state directory of its own",
                io::ErrorKind::ReadOnlyFilesystem => {
                    "give the runtime a state directory that can be written to"
                }
                io::ErrorKind::StorageFull => "free some space in the state directory",
                _ => "",
            };
            let what = format!("cannot {operation} {}", path.display());
            let error = context.error(ErrorKind::of_io(&source), what);
            let error = if remedy.is_empty() {
                error
            } else {
                error.with_remedy(remedy)
            };
            error.caused_by(source)
        }
    }
    .during("journal")
}
