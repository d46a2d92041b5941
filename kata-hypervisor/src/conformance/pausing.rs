//! Standing still.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::guest::Guest;
use super::machine::Machine;
use super::subject::Subject;
use crate::vm::Pause;

/// A paused guest does not answer, and its clock stands still; a resumed one
/// does, and has lost nothing.
/// Both calls may be repeated.
///
/// # Panics
/// When the backend does otherwise.
pub async fn a_paused_guest_stands_still(subject: &Subject) {
    let machine = Machine::boot(subject).await;
    let Some(pause) = machine.pause() else {
        assert!(!machine.features().pause);
        eprintln!("skipped: this backend cannot pause");
        return;
    };
    assert!(machine.features().pause);
    let mut stream = machine.dial(Guest::ECHO).await.expect("the guest echoes");
    pause.pause().await.expect("pause");
    pause.pause().await.expect("pause again");
    stream
        .write_all(b"x")
        .await
        .expect("a byte fits the stream's buffer");
    let mut byte = [0];
    let early = timeout(Duration::from_millis(500), stream.read_exact(&mut byte)).await;
    assert!(early.is_err(), "a paused guest answered");
    pause.resume().await.expect("resume");
    pause.resume().await.expect("resume again");
    let answer = timeout(subject.patience, stream.read_exact(&mut byte)).await;
    answer.expect("an answer in time").expect("an answer");
    assert_eq!(&byte, b"x");
    its_clock_stands_still(&machine, pause).await;
}

/// Time that passes while a guest is paused does not pass in it.
async fn its_clock_stands_still(machine: &Machine, pause: &dyn Pause) {
    const LONG: Duration = Duration::from_secs(2);
    const MOST_OF_IT: Duration = Duration::from_millis(1500);
    let began = Instant::now();
    let first = clock(machine).await;
    pause.pause().await.expect("pause");
    tokio::time::sleep(LONG).await;
    pause.resume().await.expect("resume");
    let passed = clock(machine).await.saturating_sub(first);
    let here = began.elapsed();
    assert!(
        passed + MOST_OF_IT <= here,
        "{passed:?} passed in the guest and {here:?} here, of which it was paused for {LONG:?}"
    );
}

async fn clock(machine: &Machine) -> Duration {
    let mut stream = machine.dial(Guest::CLOCK).await.expect("the guest tells");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("the time");
    Duration::from_millis(text.parse().expect("a number"))
}
