//! The agent's log: lines of JSON, on the console or to whoever dials the log
//! port.
//!
//! A container can make the agent log, so lines are limited in number and, when
//! nobody reads them, in memory. Only warnings are logged by default: a console
//! is slow, and boot time is precious.

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use log::kv::{self, Key, Value, VisitSource};
use log::{LevelFilter, Metadata, Record};
use serde_json::Map;
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

use crate::transport::Listener;

/// Lines that may come at once, and lines a second after that.
const BURST: u32 = 256;
const RATE: u32 = 64;
/// Bytes that are kept while nobody reads the log port.
const BACKLOG: usize = 64 * 1024;
/// The longest line; the rest of it is cut.
const LINE: usize = 4096;

/// The log of this process.
#[derive(Debug)]
pub(crate) struct Log {
    level: LevelFilter,
    to_port: bool,
    state: Mutex<State>,
    written: Notify,
}

#[derive(Debug)]
struct State {
    tokens: u32,
    refilled: Instant,
    suppressed: u64,
    backlog: VecDeque<Vec<u8>>,
    bytes: usize,
}

static LOG: OnceLock<Log> = OnceLock::new();

/// Makes this the process's log.
pub(crate) fn install(level: LevelFilter, to_port: bool) -> &'static Log {
    let log = LOG.get_or_init(|| Log::new(level, to_port));
    if log::set_logger(log).is_ok() {
        log::set_max_level(level);
    }
    log
}

/// Sends the log to whoever dials, one at a time.
pub(crate) async fn serve(log: &'static Log, listener: Listener) -> io::Result<()> {
    loop {
        let (mut reader, _) = listener.accept().await?;
        loop {
            let line = log.next().await;
            if reader.write_all(&line).await.is_err() {
                log.put_back(line);
                break;
            }
        }
    }
}

impl Log {
    fn new(level: LevelFilter, to_port: bool) -> Self {
        let state = State {
            tokens: BURST,
            refilled: Instant::now(),
            suppressed: 0,
            backlog: VecDeque::new(),
            bytes: 0,
        };
        Self {
            level,
            to_port,
            state: Mutex::new(state),
            written: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn next(&self) -> Vec<u8> {
        loop {
            let written = self.written.notified();
            let line = self.lock().take();
            match line {
                Some(line) => return line,
                None => written.await,
            }
        }
    }

    fn put_back(&self, line: Vec<u8>) {
        let mut state = self.lock();
        state.bytes += line.len();
        state.backlog.push_front(line);
    }
}

impl State {
    fn take(&mut self) -> Option<Vec<u8>> {
        let line = self.backlog.pop_front()?;
        self.bytes -= line.len();
        Some(line)
    }

    /// Keeps a line, and forgets the oldest beyond the limit.
    fn keep(&mut self, line: Vec<u8>) {
        self.bytes += line.len();
        self.backlog.push_back(line);
        while self.bytes > BACKLOG {
            if self.take().is_some() {
                self.suppressed += 1;
            }
        }
    }

    /// Whether another line may be logged now.
    fn admit(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.refilled).as_millis();
        let earned = u32::try_from(elapsed * u128::from(RATE) / 1000).unwrap_or(u32::MAX);
        if earned > 0 {
            self.tokens = self.tokens.saturating_add(earned).min(BURST);
            self.refilled = now;
        }
        if self.tokens == 0 {
            self.suppressed += 1;
            return false;
        }
        self.tokens -= 1;
        true
    }
}

impl log::Log for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.level
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut state = self.lock();
        if !state.admit(Instant::now()) {
            return;
        }
        let suppressed = std::mem::take(&mut state.suppressed);
        let line = format_line(record, SystemTime::now(), suppressed);
        if self.to_port {
            state.keep(line);
            self.written.notify_waiters();
        } else {
            // There is nowhere to report that the console failed.
            drop(io::stderr().write_all(&line));
        }
    }

    fn flush(&self) {}
}

/// One line of JSON with the fields that Kata's log has.
fn format_line(record: &Record<'_>, now: SystemTime, suppressed: u64) -> Vec<u8> {
    let mut fields = Fields(Map::new());
    // Fields of values that cannot be read are left out.
    drop(record.key_values().visit(&mut fields));
    let Fields(mut map) = fields;
    let mut message = record.args().to_string();
    truncate(&mut message);
    map.insert("msg".into(), message.into());
    map.insert("level".into(), record.level().as_str().into());
    map.insert("ts".into(), timestamp(now).into());
    map.insert("source".into(), "agent".into());
    map.insert("subsystem".into(), record.target().into());
    if suppressed > 0 {
        map.insert("suppressed".into(), suppressed.into());
    }
    let mut line = serde_json::Value::Object(map).to_string().into_bytes();
    line.push(b'\n');
    line
}

struct Fields(Map<String, serde_json::Value>);

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        let mut text = value.to_string();
        truncate(&mut text);
        self.0.insert(key.as_str().to_owned(), text.into());
        Ok(())
    }
}

fn truncate(text: &mut String) {
    if text.len() > LINE {
        let cut = (0..=LINE).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(cut.unwrap_or_default());
        text.push('…');
    }
}

/// RFC 3339 in UTC, to the millisecond.
fn timestamp(now: SystemTime) -> String {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86400, since.as_secs() % 86400);
    let (year, month, day) = date(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        since.subsec_millis()
    )
}

/// The Gregorian date of a day since 1970-01-01. Years begin in March here, so
/// that the leap day is the last.
fn date(days: u64) -> (u64, u64, u64) {
    const ERA: u64 = 146_097;
    let days = days + 719_468;
    let day_of_era = days % ERA;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / (ERA - 1)) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + days / ERA * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_time_is_written_as_people_read_it() {
        let at = |seconds, millis: u32| UNIX_EPOCH + Duration::new(seconds, millis * 1_000_000);
        assert_eq!(timestamp(at(0, 0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(timestamp(at(951_782_399, 7)), "2000-02-28T23:59:59.007Z");
        assert_eq!(timestamp(at(951_782_400, 0)), "2000-02-29T00:00:00.000Z");
        assert_eq!(timestamp(at(1_790_000_000, 0)), "2026-09-21T14:13:20.000Z");
    }

    #[test]
    fn a_line_is_json_with_its_fields() {
        let fields = [("container", "c\"1")];
        let line = format_line(
            &Record::builder()
                .args(format_args!("two\nlines"))
                .level(log::Level::Warn)
                .target("kata_agent::x")
                .key_values(&fields)
                .build(),
            UNIX_EPOCH,
            3,
        );
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        let json: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(json["msg"], "two\nlines");
        assert_eq!(json["container"], "c\"1");
        assert_eq!(json["suppressed"], 3);
    }

    #[test]
    fn a_flood_is_cut_and_counted() {
        let log = Log::new(LevelFilter::Info, true);
        let mut state = log.lock();
        let now = state.refilled;
        let admitted = (0..1000).filter(|_| state.admit(now)).count();
        assert_eq!(admitted, BURST as usize);
        assert_eq!(state.suppressed, 1000 - u64::from(BURST));
        assert!(state.admit(now + Duration::from_secs(1)));
    }

    #[test]
    fn an_unread_log_stays_small() {
        let log = Log::new(LevelFilter::Info, true);
        let mut state = log.lock();
        for _ in 0..100 {
            state.keep(vec![b'x'; 1024]);
        }
        assert!(state.bytes <= BACKLOG);
        assert_eq!(
            state.backlog.iter().map(Vec::len).sum::<usize>(),
            state.bytes
        );
    }
}
