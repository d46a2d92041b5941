//! Builds the conformance suite's guest and prints where its initramfs is, for
//! machines that have no compiler.
//!
//! `KATA_TEST_KERNEL=vmlinux cargo run -p kata-hypervisor --all-features --example conformance_guest`

use kata_hypervisor::conformance::Guest;

fn main() -> Result<(), String> {
    let guest = Guest::from_environment()?;
    println!("{}", guest.initramfs.display());
    Ok(())
}
