//! Why a machine ended, from all that bears witness.

use super::qmp::{Seen, Shutdown};
use crate::child::{End, Output};
use crate::vm::VmExit;

/// What the guest's kernel writes when it panics, on every architecture.
const PANIC: &[u8] = b"Kernel panic - not syncing";

/// Judges: first what QEMU said, then what was done to it, then how it died.
pub(super) fn classify(end: &End, killed: bool, seen: Seen, output: &Output) -> VmExit {
    if seen.panicked {
        return VmExit::Panic;
    }
    match seen.shutdown {
        Some(Shutdown::Panic) => VmExit::Panic,
        Some(Shutdown::PowerOff) => VmExit::PowerOff,
        // A kernel told `panic=-1` resets the machine right after the message.
        Some(Shutdown::Reset) if output.console.contains(PANIC) => VmExit::Panic,
        Some(Shutdown::Reset) => VmExit::Reset,
        // What was let down was lost before anybody killed it.
        None if killed && !matches!(end, End::LetDown(_)) => VmExit::Killed,
        None => VmExit::Crashed {
            reason: describe(end, output),
        },
    }
}

/// How QEMU died, with its last words.
pub(super) fn describe(end: &End, output: &Output) -> String {
    let words = output.stderr.text();
    if words.is_empty() {
        format!("qemu {end}")
    } else {
        format!("qemu {end}: {words}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(end: &End, killed: bool, seen: Seen, console: &[u8]) -> VmExit {
        let output = Output::default();
        output.console.push(console);
        output.stderr.push(b"qemu: bang\n");
        classify(end, killed, seen, &output)
    }

    fn because(shutdown: Shutdown) -> Seen {
        Seen {
            panicked: false,
            shutdown: Some(shutdown),
        }
    }

    #[test]
    fn the_guests_own_end_is_believed() {
        let end = End::Exited(0);
        assert_eq!(
            judge(&end, false, because(Shutdown::PowerOff), b""),
            VmExit::PowerOff
        );
        assert_eq!(
            judge(&end, false, because(Shutdown::Reset), b""),
            VmExit::Reset
        );
        assert_eq!(
            judge(&end, false, because(Shutdown::Panic), b""),
            VmExit::Panic
        );
    }

    #[test]
    fn it_is_believed_even_if_a_kill_came_after() {
        let exit = judge(&End::Signalled(9), true, because(Shutdown::PowerOff), b"");
        assert_eq!(exit, VmExit::PowerOff);
    }

    #[test]
    fn a_reset_after_a_panic_message_is_a_panic() {
        let console = b"[ 1.0] Kernel panic - not syncing: Attempted to kill init!\r\n";
        let exit = judge(&End::Exited(0), false, because(Shutdown::Reset), console);
        assert_eq!(exit, VmExit::Panic);
    }

    #[test]
    fn a_panic_notifier_says_panic() {
        let seen = Seen {
            panicked: true,
            shutdown: None,
        };
        assert_eq!(judge(&End::Signalled(9), true, seen, b""), VmExit::Panic);
    }

    #[test]
    fn a_device_that_failed_is_named_even_if_a_kill_came_after() {
        let end = End::LetDown("its vsock device has ended: oh".to_owned());
        let reason = "qemu was killed because its vsock device has ended: oh: qemu: bang";
        assert_eq!(
            judge(&end, true, Seen::default(), b""),
            VmExit::Crashed {
                reason: reason.to_owned()
            }
        );
    }

    #[test]
    fn our_kill_is_a_kill_and_another_ones_is_a_crash() {
        let end = End::Signalled(9);
        assert_eq!(judge(&end, true, Seen::default(), b""), VmExit::Killed);
        let reason = "qemu was killed by signal 9: qemu: bang".to_owned();
        assert_eq!(
            judge(&end, false, Seen::default(), b""),
            VmExit::Crashed { reason }
        );
    }
}
