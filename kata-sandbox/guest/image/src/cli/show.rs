//! Progress, on standard error.

use std::cell::Cell;
use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use kata_image::Progress;

/// Shows progress on standard error: steps on lines of their own, counts in
/// place on a terminal and now and then elsewhere.
pub(super) struct Shown {
    quiet: bool,
    is_terminal: bool,
    begun: Instant,
    counted: Cell<Option<Instant>>,
}

/// How often a count is shown where it cannot be shown in place.
const COUNT_INTERVAL: Duration = Duration::from_secs(15);

impl Shown {
    pub(super) fn new(quiet: bool) -> Self {
        let is_terminal = io::stderr().is_terminal();
        Self {
            quiet,
            is_terminal,
            begun: Instant::now(),
            counted: Cell::new(None),
        }
    }

    pub(super) fn tell(&self, progress: &Progress) {
        if self.quiet {
            return;
        }
        let seconds = self.begun.elapsed().as_secs();
        match progress {
            Progress::Count { .. } if self.is_terminal => {
                eprint!("\r  [{seconds:>3} s] {progress} ");
                self.counted.set(Some(Instant::now()));
            }
            Progress::Count { .. } => {
                let is_due = |at: Instant| at.elapsed() >= COUNT_INTERVAL;
                if self.counted.get().is_none_or(is_due) {
                    eprintln!("  [{seconds:>3} s] {progress}");
                    self.counted.set(Some(Instant::now()));
                }
            }
            _ => {
                if self.is_terminal && self.counted.take().is_some() {
                    eprintln!();
                }
                eprintln!("  [{seconds:>3} s] {progress}");
            }
        }
    }
}
