//! CreateSandbox: what holds for all containers.

use std::path::{Path, PathBuf};

use kata_protocol::agent::{CreateSandboxRequest, KernelModule};
use kata_protocol::ttrpc::{Code, Status};

use super::{Agent, internal, invalid};
use crate::container::SandboxSetup;
use crate::network::configure;
use crate::storage::SANDBOX;

/// Where the resolver's configuration is kept for containers to mount.
const DNS_FILE: &str = "/run/kata-containers/sandbox/resolv.conf";
/// Where programs look for it.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// The longest host name that the kernel accepts.
const HOST_NAME: usize = 64;

/// The sandbox that this machine is for.
#[derive(Debug)]
pub(super) struct Sandbox {
    id: String,
}

/// Makes the sandbox, once.
pub(super) async fn create(agent: &Agent, request: CreateSandboxRequest) -> Result<(), Status> {
    check(&request)?;
    claim(agent, &request.sandbox_id)?;
    let made = make(agent, request).await;
    if made.is_err() {
        agent.storages.release(SANDBOX).await?;
        agent.sandbox.replace(None);
    }
    made
}

/// Marks the sandbox as there before the first wait, so that there is one.
fn claim(agent: &Agent, id: &str) -> Result<(), Status> {
    let mut sandbox = agent.sandbox.borrow_mut();
    if let Some(existing) = &*sandbox {
        let message = format!("this machine has the sandbox {:?} already", existing.id);
        return Err(Status::new(Code::AlreadyExists, message));
    }
    *sandbox = Some(Sandbox { id: id.to_owned() });
    Ok(())
}

fn check(request: &CreateSandboxRequest) -> Result<(), Status> {
    if request.hostname.len() > HOST_NAME || request.hostname.contains('\0') {
        return Err(invalid(format!("{:?} is no host name", request.hostname)));
    }
    if request.dns.iter().any(|line| line.contains(['\n', '\0'])) {
        return Err(invalid("a DNS entry is more than one line"));
    }
    Ok(())
}

async fn make(agent: &Agent, request: CreateSandboxRequest) -> Result<(), Status> {
    for module in &request.kernel_modules {
        load_module(module).await?;
    }
    let setup = SandboxSetup {
        hostname: request.hostname,
        shared_pid: request.sandbox_pidns,
        guest_hooks: (!request.guest_hook_path.is_empty())
            .then(|| PathBuf::from(request.guest_hook_path)),
    };
    agent.containers.open_sandbox(&setup).await?;
    let storages = async {
        for storage in &request.storages {
            agent.storages.add(SANDBOX, storage).await?;
        }
        Ok(())
    };
    let network = async {
        match &request.network {
            Some(network) => configure(network, agent.config.hotplug_timeout).await,
            None => Ok(()),
        }
    };
    tokio::try_join!(storages, network)?;
    if !request.dns.is_empty() {
        write_dns(&request.dns, agent.init)
            .map_err(internal("write the resolver's configuration"))?;
    }
    Ok(())
}

fn write_dns(lines: &[String], init: bool) -> std::io::Result<()> {
    let text = lines
        .iter()
        .fold(String::new(), |text, line| text + line + "\n");
    let file = Path::new(DNS_FILE);
    if let Some(directory) = file.parent() {
        std::fs::create_dir_all(directory)?;
    }
    std::fs::write(file, &text)?;
    if init {
        std::fs::create_dir_all("/etc")?;
        return std::fs::write(RESOLV_CONF, &text);
    }
    // The root is a distribution's, often read-only: nothing in it is changed.
    Ok(rustix::mount::mount_bind(file, RESOLV_CONF)?)
}

/// Loads a module and what it depends on, as `modules.dep` says. In a child:
/// a module may take its time to probe its devices.
async fn load_module(module: &KernelModule) -> Result<(), Status> {
    let name = module.name.clone();
    if name.is_empty() || name.contains(['/', '\0']) {
        return Err(invalid(format!("{name:?} is no kernel module's name")));
    }
    let parameters = module.parameters.join(" ");
    let work = move || crate::boot::load_module_by_name(&name, &parameters).map(|()| Vec::new());
    crate::process::in_child(&[], work).await.map(drop)
}
