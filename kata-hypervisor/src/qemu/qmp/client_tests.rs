use super::super::event::Shutdown;
use super::*;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

const SOON: Duration = Duration::from_secs(5);

/// The other end of a client's connection.
struct Peer(BufReader<UnixStream>);

impl Peer {
    async fn send(&mut self, line: &str) {
        self.0
            .write_all(format!("{line}\r\n").as_bytes())
            .await
            .unwrap();
    }

    async fn command(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).await.unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

fn pair() -> (Qmp, Peer) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Qmp::new(ours), Peer(BufReader::new(theirs)))
}

#[tokio::test]
async fn negotiation_waits_for_the_greeting() {
    let (qmp, mut peer) = pair();
    let serve = async {
        peer.send(r#"{"QMP": {"version": {}, "capabilities": []}}"#)
            .await;
        let command = peer.command().await;
        assert_eq!(command["execute"], "qmp_capabilities");
        peer.send(&format!(r#"{{"return": {{}}, "id": {}}}"#, command["id"]))
            .await;
    };
    let (result, ()) = tokio::join!(qmp.negotiate(SOON), serve);
    result.unwrap();
}

#[tokio::test]
async fn answers_find_their_commands_in_any_order() {
    let (qmp, mut peer) = pair();
    let serve = async {
        let first = peer.command().await;
        let second = peer.command().await;
        for command in [second, first] {
            let line = format!(
                r#"{{"return": {}, "id": {}}}"#,
                command["execute"], command["id"]
            );
            peer.send(&line).await;
        }
    };
    let (a, b, ()) = tokio::join!(
        qmp.execute("a", None, SOON),
        qmp.execute("b", None, SOON),
        serve
    );
    assert_eq!((a.unwrap(), b.unwrap()), ("a".into(), "b".into()));
}

#[tokio::test]
async fn a_refusal_carries_the_reason() {
    let (qmp, mut peer) = pair();
    let serve = async {
        let id = peer.command().await["id"].clone();
        peer.send(&format!(
            r#"{{"error": {{"class": "X", "desc": "why not"}}, "id": {id}}}"#
        ))
        .await;
    };
    let (result, ()) = tokio::join!(qmp.execute("stop", None, SOON), serve);
    assert_eq!(result.unwrap_err().to_string(), "why not");
}

#[tokio::test]
async fn events_between_replies_are_kept() {
    let (qmp, mut peer) = pair();
    peer.send(r#"{"event": "GUEST_PANICKED", "data": {"action": "pause"}}"#)
        .await;
    peer.send(r#"{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-panic"}}"#)
        .await;
    drop(peer);
    qmp.closed().await;
    assert_eq!(
        qmp.seen(),
        Seen {
            panicked: true,
            shutdown: Some(Shutdown::Panic)
        }
    );
}

#[tokio::test]
async fn garbage_ends_the_connection_and_says_so() {
    let (qmp, mut peer) = pair();
    let serve = async {
        peer.command().await;
        peer.send("hello, I am a shell").await;
    };
    let (result, ()) = tokio::join!(qmp.execute("stop", None, SOON), serve);
    assert!(result.unwrap_err().to_string().contains("garbage"));
}

#[tokio::test]
async fn a_closed_connection_fails_what_waits_and_what_comes() {
    let (qmp, mut peer) = pair();
    let serve = async {
        peer.command().await;
        drop(peer);
    };
    let (result, ()) = tokio::join!(qmp.execute("stop", None, SOON), serve);
    assert!(matches!(result, Err(QmpError::Closed(None))));
    assert!(matches!(
        qmp.execute("cont", None, SOON).await,
        Err(QmpError::Closed(None))
    ));
    assert!(matches!(
        qmp.negotiate(SOON).await,
        Err(QmpError::Closed(None))
    ));
}

#[tokio::test]
async fn silence_ends_at_the_deadline_and_a_late_answer_is_ignored() {
    let (qmp, mut peer) = pair();
    let late = qmp.execute("stop", None, Duration::from_millis(20)).await;
    assert!(matches!(late, Err(QmpError::Timeout(_))));
    let serve = async {
        let stop = peer.command().await;
        peer.send(&format!(r#"{{"return": {{}}, "id": {}}}"#, stop["id"]))
            .await;
        let cont = peer.command().await;
        peer.send(&format!(r#"{{"return": 5, "id": {}}}"#, cont["id"]))
            .await;
    };
    let (result, ()) = tokio::join!(qmp.execute("cont", None, SOON), serve);
    assert_eq!(result.unwrap(), 5);
}

#[tokio::test]
async fn a_command_whose_future_is_dropped_is_forgotten() {
    let (qmp, _peer) = pair();
    let _ = timeout(Duration::from_millis(20), qmp.execute("stop", None, SOON)).await;
    assert!(qmp.shared.pending().is_empty());
}
