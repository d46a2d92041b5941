//! OnlineCPUMem: processors and memory that the host has plugged in.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kata_protocol::agent::OnlineCpuMemRequest;
use kata_protocol::ttrpc::{Code, Status};

use super::internal;
use crate::uevent::wait_for;

const CPUS: &str = "/sys/devices/system/cpu";
const MEMORY: &str = "/sys/devices/system/memory";

/// Brings processors, and memory unless told otherwise, online. With `wait`,
/// that many processors that are offline now are waited for.
pub(super) async fn online(request: OnlineCpuMemRequest, limit: Duration) -> Result<(), Status> {
    if request.nb_cpus > 0 {
        online_cpus(request, limit).await?;
    }
    if !request.cpu_only {
        online_all(Path::new(MEMORY), "memory").map_err(internal("bring memory online"))?;
    }
    Ok(())
}

async fn online_cpus(request: OnlineCpuMemRequest, limit: Duration) -> Result<(), Status> {
    let wanted = usize::try_from(request.nb_cpus).unwrap_or(usize::MAX);
    let limit = if request.wait { limit } else { Duration::ZERO };
    let mut count = 0;
    let enough = wait_for(limit, || {
        count += online_all(Path::new(CPUS), "cpu")?;
        Ok((count >= wanted || !request.wait).then_some(()))
    })
    .await
    .map_err(internal("bring processors online"))?;
    enough.ok_or_else(|| {
        let seconds = limit.as_secs();
        let message = format!("{count} of {wanted} processors came online within {seconds} s");
        Status::new(Code::DeadlineExceeded, message)
    })
}

/// Brings what is offline online, and counts it.
fn online_all(directory: &Path, prefix: &str) -> io::Result<usize> {
    let mut count = 0;
    for file in switches(directory, prefix)? {
        if fs::read_to_string(&file)?.trim() == "0" {
            fs::write(&file, "1")?;
            count += 1;
        }
    }
    Ok(count)
}

/// The `online` files of `cpu0`, `cpu1` …; none in a kernel without hot-plug.
fn switches(directory: &Path, prefix: &str) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let number = name.strip_prefix(prefix).unwrap_or_default();
        let file = entry.path().join("online");
        if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) && file.exists() {
            files.push(file);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_offline_is_brought_online() {
        let directory = tempfile::tempdir().unwrap();
        for (name, state) in [("cpu0", "1"), ("cpu1", "0"), ("cpufreq", "0")] {
            fs::create_dir(directory.path().join(name)).unwrap();
            fs::write(directory.path().join(name).join("online"), state).unwrap();
        }
        assert_eq!(online_all(directory.path(), "cpu").unwrap(), 1);
        let state = |name: &str| fs::read_to_string(directory.path().join(name).join("online"));
        assert_eq!(state("cpu1").unwrap(), "1");
        assert_eq!(state("cpufreq").unwrap(), "0");
    }
}
