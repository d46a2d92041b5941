//! Says whether and how QEMU runs virtual machines on this host.
//!
//! `cargo run -p kata-hypervisor --example probe`

use kata_hypervisor::Hypervisor;
use kata_hypervisor::qemu::Qemu;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let probe = Qemu::new().probe().await;
    match (&probe.acceleration, &probe.version) {
        (Some(acceleration), Some(version)) => println!("usable: QEMU {version}, {acceleration}"),
        _ => println!("not usable"),
    }
    for finding in &probe.findings {
        println!("{:?}: {finding}", finding.severity);
    }
}
