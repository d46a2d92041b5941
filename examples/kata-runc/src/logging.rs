//! Messages, in the two formats that runc's callers read.

use std::fs::File;
use std::io::{IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use log::{Level, LevelFilter, Log, Metadata, Record};
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Result};

/// How messages are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Format {
    /// `time="…" level=error msg="…"`.
    #[default]
    Text,
    /// An object on each line.
    Json,
}

/// Where messages go.
struct Sink {
    /// Standard error where there is none.
    file: Option<Mutex<File>>,
    format: Format,
}

static SINK: OnceLock<Sink> = OnceLock::new();

/// Opens the log, once.
pub(crate) fn start(path: Option<&Path>, format: Format, debug: bool) -> Result<()> {
    let file = path.map(open).transpose()?.map(Mutex::new);
    let sink = SINK.get_or_init(|| Sink { file, format });
    // Whoever has set another logger keeps it.
    if log::set_logger(sink).is_ok() {
        log::set_max_level(if debug {
            LevelFilter::Debug
        } else {
            LevelFilter::Warn
        });
    }
    Ok(())
}

fn open(path: &Path) -> Result<File> {
    let mut options = File::options();
    let opened = options.create(true).append(true).mode(0o644).open(path);
    opened.map_err(|error| Failure::io("open", path, &error))
}

/// Says why the program ends: in the log, and where that is a file, on standard
/// error too.
pub(crate) fn fatal(message: &str) {
    let sink = SINK.get();
    if let Some(sink) = sink {
        sink.write("error", message);
    }
    if sink.is_none_or(|sink| sink.file.is_some()) {
        let line = match sink {
            Some(_) => format!("{message}\n"),
            None => line(Format::Text, "error", message),
        };
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}

impl Sink {
    fn write(&self, level: &str, message: &str) {
        match &self.file {
            Some(file) => {
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                // A log that cannot be written has nowhere to say so.
                let _ = file.write_all(line(self.format, level, message).as_bytes());
            }
            None => {
                let mut out = std::io::stderr().lock();
                let text = if self.format == Format::Text && out.is_terminal() {
                    format!("{}[0000] {message}\n", level[..4].to_ascii_uppercase())
                } else {
                    line(self.format, level, message)
                };
                let _ = out.write_all(text.as_bytes());
            }
        }
    }
}

impl Log for Sink {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let level = match record.level() {
            Level::Error => "error",
            Level::Warn => "warning",
            Level::Info => "info",
            Level::Debug | Level::Trace => "debug",
        };
        let mut message = record.args().to_string();
        let mut fields = Fields(&mut message);
        let _ = record.key_values().visit(&mut fields);
        self.write(level, &message);
    }

    fn flush(&self) {}
}

/// Appends a record's fields to its message.
struct Fields<'a>(&'a mut String);

impl<'kvs> log::kv::VisitSource<'kvs> for Fields<'_> {
    fn visit_pair(
        &mut self,
        key: log::kv::Key<'kvs>,
        value: log::kv::Value<'kvs>,
    ) -> std::result::Result<(), log::kv::Error> {
        use std::fmt::Write as _;
        let _ = write!(self.0, " {key}={value}");
        Ok(())
    }
}

fn line(format: Format, level: &str, message: &str) -> String {
    let now = jiff::Timestamp::now();
    let time = jiff::Timestamp::from_second(now.as_second()).unwrap_or(now);
    match format {
        Format::Text => format!("time=\"{time}\" level={level} msg={}\n", quoted(message)),
        Format::Json => {
            let line = serde_json::json!({
                "level": level,
                "msg": message,
                "time": time.to_string(),
            });
            format!("{line}\n")
        }
    }
}

/// In quotes, unless it is a plain word.
fn quoted(message: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._/@^+".contains(c);
    if !message.is_empty() && message.chars().all(plain) {
        return message.to_owned();
    }
    let mut text = String::with_capacity(message.len() + 2);
    text.push('"');
    for c in message.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            '\r' => text.push_str("\\r"),
            c if c.is_control() => text.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => text.push(c),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_text_has_time_level_and_message() {
        let line = line(Format::Text, "error", "unknown signal \"X\"\n");
        assert!(line.starts_with("time=\"2"), "{line}");
        assert!(
            line.ends_with("Z\" level=error msg=\"unknown signal \\\"X\\\"\\n\"\n"),
            "{line}"
        );
        assert_eq!(quoted("word"), "word");
        assert_eq!(quoted(""), "\"\"");
    }

    #[test]
    fn a_line_of_json_is_an_object() {
        let line = line(Format::Json, "error", "container does not exist");
        let json: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(json["level"], "error");
        assert_eq!(json["msg"], "container does not exist");
        let time: jiff::Timestamp = json["time"].as_str().unwrap().parse().unwrap();
        assert_eq!(time.subsec_nanosecond(), 0);
    }
}
