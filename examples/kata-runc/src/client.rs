//! The library, as this program uses it.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kata_sandbox::supervisor::Supervisor;
use kata_sandbox::{Container, ErrorKind, MemorySize, OnDrop, Runtime, Sandbox, oci};

use crate::cli::Globals;
use crate::config::Config;
use crate::failure::{Failure, Result, errno_text};
use crate::network::SandboxNetwork;
use crate::state::Record;

/// Where sandboxes have their state when the configuration names no place.
const STATE_DIR: &str = "/run/kata-sandbox";
/// What this program runs to be a supervisor.
pub(crate) const SUPERVISOR: &str = "supervisor";

/// Runs a future to its end.
pub(crate) fn block_on<F: Future>(future: F) -> Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot begin: {}", errno_text(&error))))?;
    let output = runtime.block_on(future);
    // A read of the caller's input that blocks is not waited for.
    runtime.shutdown_background();
    Ok(output)
}

/// The runtime whose sandboxes belong to this `--root`.
pub(crate) fn runtime(globals: &Globals) -> Result<Runtime> {
    configured(globals, &Config::load(globals.config.as_deref())?)
}

fn configured(globals: &Globals, config: &Config) -> Result<Runtime> {
    let mut builder = Runtime::builder()
        .state_dir(state_dir(config, &globals.root))
        .supervisor(Supervisor::this_program([SUPERVISOR]));
    if let Some(image) = &config.guest_image {
        builder = builder.guest_image(image);
    }
    Ok(builder.build()?)
}

/// Below `--root` itself, paths could be too long for sockets.
fn state_dir(config: &Config, root: &Path) -> PathBuf {
    let base = match &config.state_dir {
        Some(base) => base.clone(),
        None if rustix::process::geteuid().is_root() => STATE_DIR.into(),
        None => user_dir().join("kata-sandbox"),
    };
    base.join(format!(
        "runc-{:016x}",
        hash(root.as_os_str().as_encoded_bytes())
    ))
}

/// Where a user other than root has what lasts as long as the session.
pub(crate) fn user_dir() -> PathBuf {
    std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from)
}

/// FNV-1a of 64 bits: the same in every version of this program.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The id by which the library knows a container or its sandbox: the
/// container's, unless the library's ids cannot be like that.
pub(crate) fn library_id(id: &str) -> String {
    let good = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if id.starts_with(|c: char| c.is_ascii_alphanumeric()) && id.chars().all(good) {
        return id.to_owned();
    }
    format!("id-{:016x}", hash(id.as_bytes()))
}

/// Boots the virtual machine of a container, which goes on without this
/// process.
pub(crate) async fn boot(
    globals: &Globals,
    record: &Record,
    spec: &oci::Spec,
    (network, processors): (SandboxNetwork, Option<oci::LinuxResources>),
) -> Result<Sandbox> {
    let config = Config::load(globals.config.as_deref())?;
    let mut builder = configured(globals, &config)?
        .sandbox(&record.sandbox)
        .on_drop(OnDrop::Detach);
    if let Some(hostname) = spec.hostname() {
        builder = builder.hostname(hostname);
    }
    if let Some(name) = &config.hypervisor {
        builder = builder.hypervisor(name);
    }
    if let Some(vcpus) = config.vcpus {
        builder = builder.vcpus(vcpus);
    }
    if let Some(mebibytes) = config.memory_mib {
        builder = builder.memory(MemorySize::mib(mebibytes));
    }
    if let Some(seconds) = config.boot_timeout_s {
        builder = builder.boot_timeout(Duration::from_secs(seconds));
    }
    for word in &config.kernel_parameters {
        builder = builder.kernel_parameter(word);
    }
    if let Some(path) = &record.cgroup {
        builder = builder.cgroup(path);
        if let Some(processors) = &processors {
            builder = builder.host_limits(processors);
        }
    }
    // After the configuration, which is for those without limits.
    builder = network.attach(builder.size_for(spec));
    Ok(builder.start().await?)
}

/// The container of a record; `None` when its sandbox is gone.
pub(crate) async fn container(globals: &Globals, record: &Record) -> Result<Option<Container>> {
    let Some(sandbox) = sandbox(globals, record).await? else {
        return Ok(None);
    };
    match sandbox.get(&record.guest_id) {
        Ok(container) => Ok(Some(container)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The sandbox of a record; `None` when it is gone.
pub(crate) async fn sandbox(globals: &Globals, record: &Record) -> Result<Option<Sandbox>> {
    match runtime(globals)?.attach(&record.sandbox).await {
        Ok(sandbox) => Ok(Some(sandbox)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether an error says that there is nothing to act on any more.
pub(crate) fn is_gone(error: &kata_sandbox::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::GuestLost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_the_library_takes_stays_as_it_is() {
        assert_eq!(library_id("a.b_c-1"), "a.b_c-1");
        let other = library_id("+a");
        assert!(other.starts_with("id-"), "{other}");
        assert_ne!(other, library_id("_a"));
    }

    #[test]
    fn each_root_has_sandboxes_of_its_own() {
        let config = Config::default();
        let one = state_dir(&config, Path::new("/run/a"));
        assert_eq!(one, state_dir(&config, Path::new("/run/a")));
        assert_ne!(one, state_dir(&config, Path::new("/run/b")));
    }
}
