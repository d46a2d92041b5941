//! What this process has on the host: compared before and after.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Descriptors of a tokio runtime: two of epoll, one to be woken by, and one for
/// signals.
const RUNTIME: usize = 4;

/// A census of children, threads, descriptors, mounts and files.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Census {
    children: usize,
    threads: BTreeSet<String>,
    descriptors: usize,
    mounts: usize,
    state: Vec<String>,
    /// How many tests had come.
    arrived: usize,
}

fn count(path: &str) -> usize {
    std::fs::read_dir(path).unwrap().count()
}

/// What this process has open, by name.
fn open_files() -> Vec<String> {
    let files = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let names = files.filter_map(|file| std::fs::read_link(file.path()).ok());
    names.map(|name| name.display().to_string()).collect()
}

fn children() -> usize {
    let mut children = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let list = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        children += list.split_whitespace().count();
    }
    children
}

/// Threads of devices and the like; those of tokio come and go.
fn threads() -> BTreeSet<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .filter(|name| name.starts_with("kata-"))
        .collect()
}

fn state(path: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(path) else {
        return Vec::new();
    };
    let names = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name != ".lock").collect()
}

/// Mounts at or below the tests' directory: the host may have others.
fn mounts(state_dir: &Path) -> usize {
    let directory = state_dir.parent().unwrap().display().to_string();
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    mounts
        .lines()
        .filter(|line| line.contains(&directory))
        .count()
}

impl Census {
    pub(crate) fn take(state_dir: &Path) -> Self {
        Self {
            arrived: super::ARRIVED.load(Ordering::Relaxed),
            children: children(),
            threads: threads(),
            descriptors: count("/proc/self/fd"),
            mounts: std::fs::read_to_string("/proc/self/mounts")
                .unwrap()
                .lines()
                .count(),
            state: state(state_dir),
        }
    }

    /// Waits until all is as it was, and fails when it is not so in time: what
    /// a drop began may take a moment to end.
    pub(crate) fn assert_same_soon(&self, state_dir: &Path) {
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            let now = Self::take(state_dir);
            // More are those of tests that have come to wait for their turn; fewer,
            // of an earlier test's runtime.
            let others = (now.arrived - self.arrived) * RUNTIME;
            let own = now.descriptors.saturating_sub(others);
            let now = Self {
                descriptors: own.max(self.descriptors),
                arrived: self.arrived,
                ..now
            };
            if now == *self {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "left behind:\n{now:#?}\nbefore:\n{self:#?}\nopen:\n{:#?}",
                open_files()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
