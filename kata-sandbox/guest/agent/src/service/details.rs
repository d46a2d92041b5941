//! What the guest is, and its clock.

use kata_protocol::agent::{
    AgentDetails, GuestDetailsRequest, GuestDetailsResponse, SetGuestDateTimeRequest,
};
use kata_protocol::ttrpc::Status;
use rustix::fs::Timespec;
use rustix::time::{ClockId, clock_settime};

use super::{internal, invalid};
use crate::storage;

const MEMORY: &str = "/sys/devices/system/memory";
/// What this agent does beyond Kata's: it dials the host when it is ready,
/// serves the channel port, and tells a signal from an exit status.
const FEATURES: [&str; 3] = ["announce", "channel", "exit-signal"];

/// Answers GetGuestDetails.
pub(super) fn guest_details(
    init: bool,
    request: GuestDetailsRequest,
) -> Result<GuestDetailsResponse, Status> {
    let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    Ok(GuestDetailsResponse {
        mem_block_size_bytes: if request.mem_block_size {
            block_size()?
        } else {
            0
        },
        agent_details: Some(AgentDetails {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            init_daemon: init,
            device_handlers: owned(&storage::DEVICE_TYPES),
            storage_handlers: owned(&storage::DRIVERS),
            supports_seccomp: true,
            extra_features: owned(&FEATURES),
        }),
        support_mem_hotplug_probe: request.mem_hotplug_probe
            && std::fs::exists(format!("{MEMORY}/probe")).unwrap_or(false),
    })
}

/// Size of the blocks that memory is hot-plugged in; 0 without hot-plug.
fn block_size() -> Result<u64, Status> {
    let file = format!("{MEMORY}/block_size_bytes");
    match std::fs::read_to_string(&file) {
        Ok(text) => u64::from_str_radix(text.trim().trim_start_matches("0x"), 16)
            .map_err(internal(&format!("understand {file}"))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(internal(&format!("read {file}"))(error)),
    }
}

/// Answers SetGuestDateTime.
pub(super) fn set_time(request: SetGuestDateTimeRequest) -> Result<(), Status> {
    if request.sec < 0 || !(0..1_000_000).contains(&request.usec) {
        return Err(invalid(format!(
            "{} s {} us is no time",
            request.sec, request.usec
        )));
    }
    let time = Timespec {
        tv_sec: request.sec,
        tv_nsec: request.usec * 1000,
    };
    clock_settime(ClockId::Realtime, time).map_err(internal("set the clock"))
}
