//! Ending the machine.

use std::io::Write as _;
use std::path::Path;

use rustix::system::{RebootCommand, reboot};

/// Ends the machine the quickest way that it has.
///
/// Firmware switches the power off where there is firmware. An x86 machine
/// without ACPI has no power switch: it is restarted, by a triple fault, which
/// every monitor that was told not to reboot takes for the end.
pub(crate) fn off() -> ! {
    let command = if cfg!(target_arch = "x86_64") && !Path::new("/sys/firmware/acpi").exists() {
        // Fails on a kernel without the file, or when the kernel command line
        // has forced a way; the restart then goes that way.
        drop(std::fs::write("/sys/kernel/reboot/type", "triple"));
        RebootCommand::Restart
    } else {
        RebootCommand::PowerOff
    };
    if let Err(error) = reboot(command) {
        say(&format!("cannot end the machine: {error}"));
    }
    // The end of pid 1 makes the kernel panic, which ends the machine too.
    std::process::exit(1)
}

/// Writes one line to the console.
pub(crate) fn say(line: &str) {
    // Without a console there is nobody to tell.
    drop(writeln!(std::io::stderr(), "kata-agent: {line}"));
}
