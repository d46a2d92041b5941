//! How machines end.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::machine::Machine;
use super::subject::Subject;
use crate::error::Error;
use crate::vm::{StopMode, VmExit};

/// A guest that ends its machine is no crash, and a stop that awaits it agrees.
/// On a platform without a power button the guest resets instead.
///
/// # Panics
/// When the backend does otherwise.
pub async fn a_guest_that_ends_itself_is_reported(subject: &Subject) {
    let machine = Machine::boot(subject).await;
    machine.order("end").await;
    let exit = machine.ending().await;
    assert!(matches!(exit, VmExit::PowerOff | VmExit::Reset), "{exit:?}");
    let stopped = machine
        .stop(StopMode::Await(subject.patience))
        .await
        .expect("stop");
    assert_eq!(stopped, exit);
    let dialled = machine.dial(super::Guest::ECHO).await;
    assert!(matches!(dialled, Err(Error::Ended { .. })), "{dialled:?}");
    machine.assert_clean().await;
}

/// On a platform with a power button, a guest that switches its machine off is told
/// apart from one that resets it. For such platforms only: not part of the suite.
///
/// # Panics
/// When the backend does otherwise.
pub async fn a_guest_that_switches_off_is_told_apart(subject: &Subject) {
    for (order, end) in [("off", VmExit::PowerOff), ("end", VmExit::Reset)] {
        let machine = Machine::boot(subject).await;
        machine.order(order).await;
        assert_eq!(machine.ending().await, end);
        machine.assert_clean().await;
    }
}

/// A kernel that panics is told apart, and its message is in the console tail.
///
/// # Panics
/// When the backend does otherwise.
pub async fn a_panic_is_reported_with_its_message(subject: &Subject) {
    let machine = Machine::boot(subject).await;
    machine.order("panic").await;
    let exit = machine.ending().await;
    let console = String::from_utf8_lossy(&machine.console_tail()).into_owned();
    assert_eq!(exit, VmExit::Panic, "{console}");
    assert!(console.contains("Attempted to kill init"), "{console}");
    machine.assert_clean().await;
}

/// A monitor that somebody else kills is a crash that says so; a backend
/// without a process of its own has nothing to kill.
///
/// # Panics
/// When the backend does otherwise.
pub async fn a_monitor_killed_from_outside_is_a_crash(subject: &Subject) {
    let machine = Machine::boot(subject).await;
    let Some(pid) = machine.monitor().and_then(Pid::from_raw) else {
        eprintln!("skipped: this backend has no process of its own");
        return;
    };
    kill_process(pid, Signal::KILL).expect("our own child can be killed");
    let exit = machine.ending().await;
    assert!(
        matches!(&exit, VmExit::Crashed { reason } if reason.contains('9')),
        "{exit:?}"
    );
    let stopped = machine.stop(StopMode::Kill).await.expect("stop");
    assert_eq!(stopped, exit);
    machine.assert_clean().await;
}

/// A guest that does not end while it is awaited is killed.
///
/// # Panics
/// When the backend does otherwise.
pub async fn an_awaited_end_that_does_not_come_is_a_kill(subject: &Subject) {
    let machine = Machine::boot(subject).await;
    let grace = StopMode::Await(Duration::from_millis(100));
    assert_eq!(machine.stop(grace).await.expect("stop"), VmExit::Killed);
    machine.assert_clean().await;
}
