//! Memory that goes from the guest to the host, and back.

use kata_devices::balloon::BalloonConfig;

use super::machine::{Machine, Place, chain};
use super::subject::Subject;
use crate::config::MemorySize;
use crate::error::Error;
use crate::vm::{BalloonState, StopMode};

/// What is asked of the guest.
const TARGET: MemorySize = MemorySize::mib(32);

/// The guest gives up what the host wants, takes it back when it may, and lives on;
/// what it does not use it reports.
///
/// # Panics
/// When the backend does otherwise.
pub async fn a_balloon_takes_memory_and_gives_it_back(subject: &Subject) {
    let place = Place::new();
    let mut config = place.config(subject);
    config.devices.balloon = Some(BalloonConfig::default());
    let machine = match Machine::of(subject, place, config).await {
        Ok(machine) => machine.up().await,
        Err(Error::Unsupported { .. }) => {
            eprintln!("skipped: this backend has no balloons");
            return;
        }
        Err(error) => panic!("create: {}", chain(&error)),
    };
    assert!(machine.features().balloon);
    let balloon = machine.balloon().expect("the machine has a balloon");
    for target in [TARGET, MemorySize::default()] {
        balloon.set_target(target).await.expect("a target");
        let reached = |state: BalloonState| state.given == target;
        let state = until(&machine, subject, reached).await;
        assert_eq!(state.given, target, "what the guest says it gave");
        assert_eq!(machine.echo(b"alive").await, b"alive");
    }
    // Memory that came back is free, and soon reported.
    let reported = |state: BalloonState| state.reported >= MemorySize::mib(4);
    let state = until(&machine, subject, reported).await;
    assert!(reported(state), "{state:?}");
    machine.stop(StopMode::Kill).await.expect("stop");
    let balloon = machine.balloon().expect("it had one");
    assert!(balloon.set_target(TARGET).await.is_err(), "it has ended");
    machine.assert_clean().await;
}

/// Asks until the state is as wanted; the last one, when patience has run out. A
/// guest gives when it comes to it, and tells nobody.
async fn until(
    machine: &Machine,
    subject: &Subject,
    wanted: impl Fn(BalloonState) -> bool,
) -> BalloonState {
    let balloon = machine.balloon().expect("the machine has a balloon");
    let until = tokio::time::Instant::now() + subject.patience;
    loop {
        let state = balloon.state().await.expect("a state");
        if wanted(state) || tokio::time::Instant::now() > until {
            return state;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
