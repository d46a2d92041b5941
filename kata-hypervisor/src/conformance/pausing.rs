//! Standing still.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::guest::Guest;
use super::machine::Machine;
use super::subject::Subject;

/// A paused guest does not answer; a resumed one does, and has lost nothing.
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
}
