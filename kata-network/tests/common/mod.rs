//! Tests in network and mount namespaces of their own: no bridge and no filter
//! rule of theirs touches the machine's.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(
    clippy::allow_attributes,
    reason = "which part is unused differs by file"
)]

use std::process::Command;

/// Set in the process that has namespaces of its own.
const INSIDE: &str = "KATA_TEST_NETWORK";
/// Where the distribution has its CNI plugins.
pub(crate) const PLUGINS: &str = "/usr/lib/cni";

/// Runs the test of that name in a process with namespaces of its own. `true`
/// in that process, where the test goes on; `false` where it has been run, or
/// aloud cannot be.
pub(crate) fn on_its_own(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        run("ip link set lo up; mkdir -p /run/netns; mount -t tmpfs none /run/netns");
        return true;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: network namespaces need root");
        return false;
    }
    if !std::path::Path::new("/dev/net/tun").exists() {
        eprintln!("skipped: the host has no /dev/net/tun");
        return false;
    }
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--include-ignored"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed in namespaces of its own");
    false
}

/// Runs a script, which must succeed, and gives its output.
pub(crate) fn run(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}\n{stdout}{stderr}");
    stdout
}

/// Whether the distribution's plugins are there.
pub(crate) fn has_plugins() -> bool {
    let there = std::path::Path::new(PLUGINS).join("bridge").is_file();
    if !there {
        eprintln!("skipped: there are no CNI plugins in {PLUGINS}");
    }
    there
}
