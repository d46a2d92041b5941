//! Making, starting, waiting, stopping.

use super::machine::Machine;
use super::subject::Subject;
use crate::error::Error;
use crate::vm::{StopMode, VmExit};

/// A machine boots, says how long what took and what it uses, echoes, and is
/// gone without a trace after a stop.
///
/// # Panics
/// When the backend does otherwise.
pub async fn a_machine_boots_and_is_accounted_for(subject: &Subject) {
    let machine = Machine::boot(subject).await;
    assert_eq!(machine.echo(b"hello").await, b"hello");
    let (has, offered) = (machine.features(), subject.hypervisor.offers());
    assert!(
        (!has.pause || offered.pause)
            && (!has.hotplug || offered.hotplug)
            && (!has.disks || offered.disks)
            && (!has.snapshot || offered.snapshot),
        "{has:?} is more than {offered:?}"
    );
    let phases = machine.phases();
    assert!(!phases.is_empty(), "a machine that booted has a timeline");
    assert!(
        phases.is_sorted_by_key(|phase| phase.began),
        "in order: {phases:?}"
    );
    let usage = machine.usage().await.expect("a running machine's usage");
    assert!(
        usage.guest_memory > 1 << 20,
        "a booted guest has touched memory: {usage:?}"
    );
    assert!(
        !usage.cpu.is_zero(),
        "a booted guest has used a processor: {usage:?}"
    );
    let exit = machine.stop(StopMode::Kill).await.expect("stop");
    assert_eq!(exit, VmExit::Killed);
    let after = machine.usage().await;
    assert!(after.is_err(), "a stopped machine uses nothing: {after:?}");
    machine.assert_clean().await;
}

/// A second start is refused, and the machine runs on.
///
/// # Panics
/// When the backend does otherwise.
pub async fn a_machine_starts_once(subject: &Subject) {
    let machine = Machine::boot(subject).await;
    let again = machine.start().await;
    assert!(
        matches!(
            again,
            Err(Error::State {
                operation: "start",
                ..
            })
        ),
        "{again:?}"
    );
    assert_eq!(machine.echo(b"still there").await, b"still there");
}

/// A machine that was made and never started takes no calls, and stops.
///
/// # Panics
/// When the backend does otherwise.
pub async fn a_machine_that_never_started_can_be_stopped(subject: &Subject) {
    let machine = Machine::create(subject).await;
    let dialled = machine.dial(super::Guest::ECHO).await;
    assert!(
        matches!(
            dialled,
            Err(Error::State {
                operation: "dial",
                ..
            })
        ),
        "{dialled:?}"
    );
    assert_eq!(
        machine.stop(StopMode::Kill).await.expect("stop"),
        VmExit::Killed
    );
    let started = machine.start().await;
    assert!(started.is_err(), "what was stopped does not start");
    machine.assert_clean().await;
}

/// All who wait are told the same, whether they came before the end or after.
///
/// # Panics
/// When the backend does otherwise.
pub async fn everybody_who_waits_is_told(subject: &Subject) {
    let machine = Machine::boot(subject).await;
    let kill = async {
        tokio::task::yield_now().await;
        machine.stop(StopMode::Kill).await.expect("stop")
    };
    let (first, second, stopped) = tokio::join!(machine.ending(), machine.ending(), kill);
    let late = machine.ending().await;
    assert_eq!([&first, &second, &late], [&stopped; 3]);
}

/// A second stop, and one at the same time, answers as the first.
///
/// # Panics
/// When the backend does otherwise.
pub async fn stop_may_be_repeated(subject: &Subject) {
    let machine = Machine::boot(subject).await;
    let (first, same_time) =
        tokio::join!(machine.stop(StopMode::Kill), machine.stop(StopMode::Kill));
    let later = machine.stop(StopMode::Kill).await;
    for exit in [first, same_time, later] {
        assert_eq!(exit.expect("stop"), VmExit::Killed);
    }
    machine.assert_clean().await;
}
