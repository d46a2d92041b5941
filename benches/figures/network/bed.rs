//! Where the network's figures are measured: network and mount namespaces of this
//! program's own, with a bridge that is the host of both guests.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use super::{Outcome, Place};

/// The namespace that is the sandbox's, as a CRI would have prepared it.
pub(super) const POD: &str = "/run/netns/pod";
/// The tap that is made by hand.
pub(super) const TAP: &str = "byhand";
/// Set in the process that has namespaces of its own.
const INSIDE: &str = "KATA_BENCH_NETWORK";

/// Starts this program anew in namespaces of its own, unless it is in them.
/// Whether it is; it is not, aloud, where that cannot be.
pub(crate) fn enter() -> Outcome<bool> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(true);
    }
    let mut can = Command::new("unshare");
    can.args(["--net", "--mount", "test", "-w", "/dev/net/tun"]);
    if !can.status().is_ok_and(|status| status.success()) {
        println!("skipped: the network's figures need root and /dev/net/tun");
        return Ok(false);
    }
    let program = std::env::current_exe()?;
    let arguments = std::env::args_os().skip(1);
    let mut again = Command::new("unshare");
    again
        .args(["--net", "--mount", "--"])
        .arg(program)
        .args(arguments);
    Err(again.env(INSIDE, "1").exec().into())
}

/// Makes the bridge, the namespace and the tap.
pub(super) fn lay() -> Outcome {
    let (host, pod) = (Place::HOST, Place::OURS);
    run(&format!(
        "mkdir -p /run/netns; mount -t tmpfs none /run/netns
         ip link set lo up
         ip link add br0 type bridge; ip link set br0 up
         ip addr add {}/24 dev br0; ip addr add {}/64 dev br0 nodad
         ip netns add pod
         ip link add vpod type veth peer name eth0 netns pod
         ip link set vpod master br0 up; ip -n pod link set eth0 up
         ip -n pod addr add {}/24 dev eth0; ip -n pod addr add {}/64 dev eth0 nodad
         ip tuntap add {TAP} mode tap multi_queue vnet_hdr
         ip link set {TAP} master br0 up",
        host.v4(),
        host.v6(),
        pod.v4(),
        pod.v6()
    ))
}

fn run(script: &str) -> Outcome {
    let output = Command::new("sh").args(["-ec", script]).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{script}\n{said}").into())
}
