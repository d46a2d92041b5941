//! What another user than root can have of it.

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;

use common::{KATA_RUNC, Ran, Runtime, has, lacks_guest, ran};

/// `nobody`, as everywhere.
const NOBODY: u32 = 65534;

/// A command of that user, with nothing of root's environment.
fn as_nobody(own: &Path) -> Command {
    let mut command = Command::new("setpriv");
    let user = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")];
    command
        .args(user)
        .args(["--clear-groups", "--inh-caps=-all", "env", "-i"]);
    for name in ["PATH", "KATA_GUEST_IMAGE"] {
        let value = std::env::var(name).unwrap_or_default();
        command.arg(format!("{name}={value}"));
    }
    command.arg(format!("XDG_RUNTIME_DIR={}", own.display()));
    command
}

#[test]
fn a_user_without_privileges_runs_containers_and_is_told_what_is_missing() {
    let lacking = lacks_guest().or((!has("setpriv")).then_some("setpriv is not installed"));
    if let Some(reason) = lacking {
        return eprintln!("skipped: {reason}");
    }
    let runtime = Runtime::kata();
    let bundle = runtime.bundle_with(&["/bin/sh", "-c", "echo out; exit 3"], |spec| {
        spec["linux"].as_object_mut().unwrap().remove("cgroupsPath");
    });
    let directory = runtime.directory.path();
    let (program, own) = (directory.join("program"), directory.join("own"));
    fs::copy(KATA_RUNC, &program).unwrap();
    fs::create_dir(&own).unwrap();
    chown(&own, Some(NOBODY), Some(NOBODY)).unwrap();
    fs::set_permissions(&own, Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(directory, Permissions::from_mode(0o755)).unwrap();
    let run = |args: &[&str]| -> Ran {
        let mut command = as_nobody(&own);
        command.current_dir(&bundle).arg(&program).args(args);
        ran(&command, "")
    };
    let image = std::env::var("KATA_GUEST_IMAGE").unwrap();
    let mut readable = as_nobody(&own);
    readable.args(["test", "-r", &format!("{image}/manifest.json")]);
    if ran(&readable, "").code != Some(0) {
        return eprintln!("skipped: the guest image is root's alone");
    }
    let told = run(&["run", "c1"]);
    let said = (told.stdout.as_str(), told.code);
    assert_eq!(said, ("out\n", Some(3)), "{}", told.stderr);
    for namespace in ["network namespace", "mount namespace"] {
        assert!(told.stderr.contains(namespace), "{}", told.stderr);
    }
    assert_eq!(run(&["list", "-q"]).stdout, "");
    assert!(
        own.join("kata-runc").is_dir(),
        "below the user's own directory"
    );
    let denied = run(&["--root", "/nonexistent", "list"]);
    assert_eq!(denied.code, Some(1));
    assert!(
        denied.stderr.contains("permission denied"),
        "{}",
        denied.stderr
    );
}
