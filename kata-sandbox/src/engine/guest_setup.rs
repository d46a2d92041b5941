//! What the guest is told once, before its first container.

use std::time::{SystemTime, UNIX_EPOCH};

use kata_network::Lease;
use kata_protocol::agent::{CreateSandboxRequest, SetGuestDateTimeRequest, Storage};
use kata_protocol::ttrpc::CallError;

use super::agent::Agent;
use super::blueprint::{Blueprint, SHARE_TAG};
use super::guest_network;

/// Where the guest has what is shared with it.
pub(crate) const SHARED: &str = "/run/kata-containers/shared/containers";
/// Where the guest has the memory that the sandbox's containers share.
pub(crate) const SHM: &str = "/run/kata-containers/sandbox/shm";

/// Tells the guest all of it, what does not depend on each other at once. An
/// agent of ours takes the network together with the sandbox: one round.
pub(super) async fn run(
    agent: &Agent,
    blueprint: &Blueprint,
    lease: &Lease,
    ours: bool,
) -> Result<(), CallError> {
    let mut sandbox = sandbox(blueprint, lease);
    sandbox.network = ours.then(|| guest_network::whole(lease));
    let calls = agent.calls();
    let network = async {
        if ours {
            return Ok(());
        }
        guest_network::by_calls(agent, lease).await
    };
    tokio::try_join!(
        calls.create_sandbox(&sandbox, agent.deadline()),
        set_clock(agent),
        network,
    )?;
    Ok(())
}

fn sandbox(blueprint: &Blueprint, lease: &Lease) -> CreateSandboxRequest {
    let servers = lease.name_servers.iter().map(ToString::to_string);
    let servers = blueprint.name_servers.iter().cloned().chain(servers);
    CreateSandboxRequest {
        hostname: blueprint.guest_hostname(),
        dns: servers
            .map(|server| format!("nameserver {server}"))
            .chain(resolver_line("search", &lease.search_domains))
            .chain(resolver_line("options", &lease.resolver_options))
            .collect(),
        storages: vec![
            Storage {
                driver: "virtio-fs".into(),
                source: SHARE_TAG.into(),
                fstype: "virtiofs".into(),
                mount_point: SHARED.into(),
                ..Storage::default()
            },
            Storage {
                driver: "ephemeral".into(),
                source: "shm".into(),
                fstype: "tmpfs".into(),
                options: ["noexec", "nosuid", "nodev", "mode=1777"]
                    .map(str::to_owned)
                    .into(),
                mount_point: SHM.into(),
                ..Storage::default()
            },
        ],
        sandbox_pidns: blueprint.shared_process_ids,
        sandbox_id: blueprint.id.clone(),
        ..CreateSandboxRequest::default()
    }
}

/// A line of `resolv.conf(5)` with several words, if there are any.
fn resolver_line(keyword: &str, words: &[String]) -> Option<String> {
    (!words.is_empty()).then(|| format!("{keyword} {}", words.join(" ")))
}

/// A guest without a clock of its own would begin in 1970, or where its image
/// was made.
async fn set_clock(agent: &Agent) -> Result<(), CallError> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let request = SetGuestDateTimeRequest {
        sec: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
        usec: now.subsec_micros().into(),
    };
    agent
        .calls()
        .set_guest_date_time(&request, agent.deadline())
        .await
}
