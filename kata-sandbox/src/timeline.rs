//! Where the time of a boot went.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The phases of a sandbox's start, in order of beginning.
///
/// Prints as a bar chart:
///
/// ```text
/// journal              0.0 ms    1.2 ms |#
/// create machine       1.3 ms   61.0 ms | ####
/// guest boot          64.0 ms  911.4 ms |     ###############################
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeline {
    phases: Vec<TimelinePhase>,
    total: Duration,
}

/// One phase of a start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TimelinePhase {
    /// Its name.
    pub name: Cow<'static, str>,
    /// When it began, counted from the start.
    pub offset: Duration,
    /// How long it took.
    pub took: Duration,
}

impl Timeline {
    /// The phases, in order of beginning; they may overlap.
    #[must_use]
    pub fn phases(&self) -> &[TimelinePhase] {
        &self.phases
    }

    /// From the call of `start()` until the sandbox ran.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.total
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Columns of the chart's bars.
const COLUMNS: u128 = 40;

fn columns(part: Duration, whole: Duration) -> usize {
    let columns = part.as_micros() * COLUMNS / whole.as_micros().max(1);
    usize::try_from(columns.min(COLUMNS)).unwrap_or(0)
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widest = self
            .phases
            .iter()
            .map(|phase| phase.name.len())
            .max()
            .unwrap_or(0)
            .max(5);
        for TimelinePhase { name, offset, took } in &self.phases {
            let indent = columns(*offset, self.total);
            let bar = columns(*took, self.total).max(1);
            writeln!(
                f,
                "{name:widest$} {:>9.1} ms {:>9.1} ms |{:indent$}{}",
                millis(*offset),
                millis(*took),
                "",
                "#".repeat(bar)
            )?;
        }
        write!(
            f,
            "{:widest$} {:>12} {:>9.1} ms",
            "total",
            "",
            millis(self.total)
        )
    }
}

/// Writes a timeline as things happen. Clones write the same one.
#[derive(Clone, Debug)]
pub(crate) struct Recorder(Arc<Mutex<Recording>>);

#[derive(Debug)]
struct Recording {
    began: Instant,
    phases: Vec<(&'static str, Instant, Option<Duration>)>,
    /// Phases that others have told of.
    told: Vec<(String, Instant, Duration)>,
    /// The phase that ended last.
    last: Option<&'static str>,
}

/// A phase that lasts until it is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    recorder: Recorder,
    index: usize,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        let began = Instant::now();
        Self(Arc::new(Mutex::new(Recording {
            began,
            phases: Vec::new(),
            told: Vec::new(),
            last: None,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Recording> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a phase.
    pub(crate) fn begin(&self, name: &'static str) -> Running {
        let mut recording = self.lock();
        recording.phases.push((name, Instant::now(), None));
        let index = recording.phases.len() - 1;
        drop(recording);
        Running {
            recorder: self.clone(),
            index,
        }
    }

    /// Adds phases of a network's set-up.
    pub(crate) fn tell(&self, phases: Vec<kata_network::Phase>) {
        let told = phases.into_iter();
        let told = told.map(|phase| (phase.name, phase.began, phase.took));
        self.lock().told.extend(told);
    }

    /// The phase that was going on when everything was given up: the one that
    /// ended last.
    pub(crate) fn interrupted(&self) -> Option<&'static str> {
        self.lock().last
    }

    /// The timeline so far, with the machine's own phases among them.
    pub(crate) fn finish(&self, machine: &[kata_hypervisor::Phase]) -> Timeline {
        let recording = self.lock();
        let began = recording.began;
        let own = recording
            .phases
            .iter()
            .map(|(name, at, took)| TimelinePhase {
                name: Cow::Borrowed(*name),
                offset: at.saturating_duration_since(began),
                took: took.unwrap_or_else(|| at.elapsed()),
            });
        let machine = machine.iter().map(|phase| TimelinePhase {
            name: Cow::Borrowed(phase.name),
            offset: phase.began.saturating_duration_since(began),
            took: phase.took,
        });
        let told = recording.told.iter();
        let told = told.map(|(name, at, took)| TimelinePhase {
            name: Cow::Owned(name.clone()),
            offset: at.saturating_duration_since(began),
            took: *took,
        });
        let mut phases: Vec<_> = own.chain(machine).chain(told).collect();
        phases.sort_by_key(|phase| phase.offset);
        Timeline {
            phases,
            total: began.elapsed(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut recording = self.recorder.lock();
        let (name, at, took) = &mut recording.phases[self.index];
        *took = Some(at.elapsed());
        recording.last = Some(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_come_in_order_of_beginning_and_may_overlap() {
        let recorder = Recorder::new();
        let outer = recorder.begin("outer");
        let inner = recorder.begin("inner");
        assert_eq!(recorder.interrupted(), None);
        drop(inner);
        assert_eq!(recorder.interrupted(), Some("inner"));
        drop(outer);
        let spawn = kata_hypervisor::Phase {
            name: "spawn",
            began: recorder.lock().began,
            took: Duration::from_millis(5),
        };
        let timeline = recorder.finish(&[spawn]);
        let names: Vec<_> = timeline.phases().iter().map(|phase| &*phase.name).collect();
        assert_eq!(names, ["spawn", "outer", "inner"]);
        assert!(timeline.total() >= timeline.phases()[1].took);
    }

    #[test]
    fn a_timeline_prints_as_bars() {
        let ms = Duration::from_millis;
        let timeline = Timeline {
            phases: vec![
                TimelinePhase {
                    name: "journal".into(),
                    offset: ms(0),
                    took: ms(1),
                },
                TimelinePhase {
                    name: "guest boot".into(),
                    offset: ms(50),
                    took: ms(50),
                },
            ],
            total: ms(100),
        };
        let expected = format!(
            "journal          0.0 ms       1.0 ms |#\n\
             guest boot      50.0 ms      50.0 ms |{}{}\n\
             total                       100.0 ms",
            " ".repeat(20),
            "#".repeat(20)
        );
        assert_eq!(timeline.to_string(), expected);
    }
}
