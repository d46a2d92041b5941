//! Lines of the protocol, and what they mean.
//!
//! QEMU is trusted more than its guest, but a guest that broke into it speaks
//! with its voice: lines are bounded, and what is not understood is an error
//! or is skipped, never a panic.

use serde::Deserialize;
use serde_json::Value;

use super::event::Event;

/// Longest line that is read. The largest reply that is ever asked for, a
/// `query-qmp-schema`, is below 300 KiB; this client asks for far less.
pub(super) const LONGEST_LINE: usize = 512 << 10;

/// A message from QEMU.
#[derive(Debug, PartialEq)]
pub(super) enum Message {
    /// The first line: QEMU is there, and says its version.
    Greeting(Value),
    /// The answer to a command.
    Reply {
        /// The command's id; a reply without one answers garbage.
        id: Option<u64>,
        /// What came back, or the reason of the refusal.
        result: Result<Value, String>,
    },
    /// Something happened.
    Event(Event),
}

/// Why a line is not a message.
#[derive(Debug, thiserror::Error)]
pub(super) enum Malformed {
    #[error("not JSON")]
    Json(#[source] serde_json::Error),
    #[error("neither a greeting, a reply nor an event")]
    Unknown,
}

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    #[serde(rename = "return")]
    returned: Option<Value>,
    error: Option<Refusal>,
    id: Option<u64>,
    event: Option<String>,
    #[serde(default)]
    data: Value,
}

#[derive(Deserialize)]
struct Refusal {
    desc: String,
}

/// Understands one line.
pub(super) fn parse(line: &[u8]) -> Result<Message, Malformed> {
    let line: Line = serde_json::from_slice(line).map_err(Malformed::Json)?;
    if let Some(name) = line.event {
        return Ok(Message::Event(Event::new(&name, &line.data)));
    }
    if let Some(refusal) = line.error {
        return Ok(Message::Reply {
            id: line.id,
            result: Err(refusal.desc),
        });
    }
    if let Some(value) = line.returned {
        return Ok(Message::Reply {
            id: line.id,
            result: Ok(value),
        });
    }
    line.greeting
        .map(Message::Greeting)
        .ok_or(Malformed::Unknown)
}

/// A command as a line.
pub(super) fn command(id: u64, name: &str, arguments: Option<Value>) -> Vec<u8> {
    let mut object = serde_json::json!({ "execute": name, "id": id });
    if let Some(arguments) = arguments {
        object["arguments"] = arguments;
    }
    let mut line = object.to_string().into_bytes();
    line.push(b'\n');
    line
}

/// Cuts a stream of bytes into lines of bounded length.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pending: Vec<u8>,
    /// How much of `pending` is known to have no line end.
    searched: usize,
}

/// A line was longer than [`LONGEST_LINE`].
#[derive(Debug, PartialEq)]
pub(super) struct TooLong;

impl Lines {
    /// Adds what was read.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// Takes the next whole line, without its end.
    pub(super) fn next(&mut self) -> Result<Option<Vec<u8>>, TooLong> {
        let Some(end) = self.pending[self.searched..]
            .iter()
            .position(|&byte| byte == b'\n')
        else {
            self.searched = self.pending.len();
            return if self.pending.len() > LONGEST_LINE {
                Err(TooLong)
            } else {
                Ok(None)
            };
        };
        let end = self.searched + end;
        if end > LONGEST_LINE {
            return Err(TooLong);
        }
        let rest = self.pending.split_off(end + 1);
        let mut line = std::mem::replace(&mut self.pending, rest);
        self.searched = 0;
        line.truncate(line.trim_ascii_end().len());
        Ok(Some(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_greeting_a_reply_a_refusal_and_an_event_are_told_apart() {
        assert!(matches!(
            parse(br#"{"QMP":{"version":{}}}"#).unwrap(),
            Message::Greeting(_)
        ));
        assert_eq!(
            parse(br#"{"return":{},"id":3}"#).unwrap(),
            Message::Reply {
                id: Some(3),
                result: Ok(serde_json::json!({}))
            }
        );
        assert_eq!(
            parse(br#"{"error":{"class":"GenericError","desc":"no"},"id":4}"#).unwrap(),
            Message::Reply {
                id: Some(4),
                result: Err("no".into())
            }
        );
        assert!(matches!(
            parse(br#"{"event":"STOP"}"#).unwrap(),
            Message::Event(_)
        ));
    }

    #[test]
    fn other_json_is_malformed() {
        assert!(matches!(parse(b"{}"), Err(Malformed::Unknown)));
        assert!(matches!(parse(b"[1]"), Err(Malformed::Json(_))));
        assert!(matches!(parse(b""), Err(Malformed::Json(_))));
    }

    #[test]
    fn a_line_may_come_in_pieces() {
        let mut lines = Lines::default();
        lines.push(b"{\"a\"");
        assert_eq!(lines.next(), Ok(None));
        lines.push(b":1}\r\n{}\n");
        assert_eq!(lines.next(), Ok(Some(b"{\"a\":1}".to_vec())));
        assert_eq!(lines.next(), Ok(Some(b"{}".to_vec())));
        assert_eq!(lines.next(), Ok(None));
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut lines = Lines::default();
        lines.push(&vec![b'x'; LONGEST_LINE + 1]);
        assert_eq!(lines.next(), Err(TooLong));
    }

    #[test]
    fn a_command_is_one_line() {
        let line = command(7, "device_add", Some(serde_json::json!({"id": "a\nb"})));
        assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
        let value: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(value["execute"], "device_add");
        assert_eq!(value["id"], 7);
    }

    proptest! {
        #[test]
        fn no_line_makes_the_parser_panic(line in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = parse(&line);
        }

        #[test]
        fn no_almost_right_line_makes_the_parser_panic(
            key in "(QMP|return|error|id|event|data|timestamp)",
            other in "(QMP|return|error|id|event|data)",
            value in r#"(null|1|-1|1e99|"SHUTDOWN"|\{\}|\{"desc":1\}|\{"reason":"x"\}|\[\])"#,
        ) {
            let _ = parse(format!(r#"{{"{key}":{value},"{other}":{value}}}"#).as_bytes());
        }

        #[test]
        fn however_the_stream_is_cut_the_lines_are_the_same(
            lines in prop::collection::vec("[a-z]{0,20}", 0..10),
            cut in 1usize..7,
        ) {
            let stream: String = lines.iter().map(|line| format!("{line}\n")).collect();
            let mut reader = Lines::default();
            let mut read = Vec::new();
            for piece in stream.as_bytes().chunks(cut) {
                reader.push(piece);
                while let Some(line) = reader.next().unwrap() {
                    read.push(String::from_utf8(line).unwrap());
                }
            }
            prop_assert_eq!(read, lines);
        }
    }
}
