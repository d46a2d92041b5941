//! What a machine may have left on the host.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Processes under this one whose command line has `id` in it.
pub(super) fn processes(id: &str) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|&pid: &i32| is_ours(pid) && mentions(pid, id))
        .collect()
}

fn mentions(pid: i32, id: &str) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.windows(id.len()).any(|window| window == id.as_bytes())
}

/// Whether this process is the parent.
fn is_ours(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let parent = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().nth(1));
    parent.and_then(|parent| parent.parse().ok()) == Some(std::process::id())
}

fn files(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Waits until nothing of the machine is left.
///
/// # Panics
/// When something still is after `patience`: what.
pub(super) async fn assert_none(id: &str, directory: &Path, patience: Duration) {
    let deadline = Instant::now() + patience;
    loop {
        let (processes, files) = (processes(id), files(directory));
        if processes.is_empty() && files.is_empty() {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "left behind: processes {processes:?}, files {files:?}"
        );
        // Nobody announces that a file or a zombie has gone.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
