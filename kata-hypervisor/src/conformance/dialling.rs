//! Streams to the guest.

use super::guest::Guest;
use super::machine::Machine;
use super::subject::Subject;
use crate::error::Error;

/// A mebibyte goes to the guest and comes back as it was.
///
/// # Panics
/// When the backend does otherwise.
pub async fn a_stream_carries_much_both_ways(subject: &Subject) {
    let machine = Machine::boot(subject).await;
    let bytes: Vec<u8> = (0..1u32 << 18).flat_map(u32::to_le_bytes).collect();
    assert!(
        machine.echo(&bytes).await == bytes,
        "what came back differs"
    );
}

/// A port where nobody listens is refused, and that is not the machine's end.
///
/// # Panics
/// When the backend does otherwise.
pub async fn a_port_where_nobody_listens_is_refused(subject: &Subject) {
    let machine = Machine::boot(subject).await;
    let dialled = machine.dial(54_321).await;
    assert!(
        matches!(dialled, Err(Error::Refused { port: 54_321 })),
        "{dialled:?}"
    );
    assert_eq!(machine.echo(b"still there").await, b"still there");
}

/// Streams that are open at the same time have ports of their own and do not
/// mix.
///
/// # Panics
/// When the backend does otherwise.
pub async fn many_streams_at_once_are_kept_apart(subject: &Subject) {
    let machine = Machine::boot(subject).await;
    let mut streams = Vec::new();
    for _ in 0..16 {
        streams.push(machine.dial(Guest::ECHO).await.expect("the guest echoes"));
    }
    let mut ports: Vec<u32> = streams.iter().map(|stream| stream.host_port()).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(
        ports.len(),
        streams.len(),
        "each stream has a host port of its own"
    );
    for (index, stream) in streams.iter_mut().enumerate().rev() {
        let word = format!("stream {index}");
        assert_eq!(
            machine.exchange(stream, word.as_bytes()).await,
            word.as_bytes()
        );
    }
}
