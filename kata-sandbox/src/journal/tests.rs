//! Claims, sweeps, and what is left of dead processes.

use super::*;

fn state() -> (tempfile::TempDir, StateDir) {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDir::new(directory.path().join("state"), Steps::default());
    (directory, state)
}

fn record(id: &str, network: Option<&str>) -> Record {
    let network = network.map(|name| NetworkRecord {
        name: name.to_owned(),
        description: None,
        subject: None,
    });
    Record::new(id, network)
}

fn claim(state: &StateDir, id: &str, network: Option<&str>) -> SandboxDir {
    match state.claim(&record(id, network)).unwrap() {
        Claim::New(dir) => dir,
        Claim::Stale(left) => panic!("{left:?}"),
    }
}

/// What a sweep removes, where nothing fails.
fn swept(state: &StateDir) -> Vec<String> {
    let swept = state.sweep().unwrap();
    assert!(swept.failed.is_empty(), "{swept:?}");
    swept.removed
}

#[test]
fn a_claimed_directory_is_private_recorded_and_gone_after_the_guard() {
    use std::os::unix::fs::PermissionsExt as _;
    let (_directory, state) = state();
    let dir = claim(&state, "a", None);
    let path = state.path().join("a");
    assert_eq!(record::read(&path).unwrap().unwrap(), record("a", None));
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    assert!(dir.run_dir().is_dir());
    drop(dir);
    assert!(!path.exists());
}

#[test]
fn a_directory_in_use_is_neither_claimed_nor_swept() {
    let (_directory, state) = state();
    let _dir = claim(&state, "a", None);
    let error = state.claim(&record("a", None)).unwrap_err();
    let owner = std::process::id();
    assert!(
        matches!(&error, JournalError::InUse { owner: Some(pid), .. } if *pid == owner),
        "{error}"
    );
    assert!(swept(&state).is_empty());
}

#[test]
fn what_a_dead_process_left_is_swept_or_claimed_anew() {
    let (_directory, state) = state();
    for id in ["a", "b"] {
        claim(&state, id, None).leave();
    }
    let dir = claim(&state, "b", None);
    assert_eq!(swept(&state), ["a"]);
    dir.remove().unwrap();
    let left: Vec<_> = std::fs::read_dir(state.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}"); // the sweep's own lock
}

#[test]
fn a_network_is_noted_until_it_has_been_torn_down() {
    let (_directory, state) = state();
    claim(&state, "a", Some("cni")).leave();
    for _ in 0..2 {
        assert!(swept(&state).is_empty());
        let found = state.unfinished().unwrap().left;
        assert_eq!(found[0].record().id, "a");
        drop(found); // given up half-way
        let claimed = state.claim(&record("a", None)).unwrap();
        let Claim::Stale(left) = claimed else {
            panic!("the network was forgotten")
        };
        assert_eq!(left.record().network.as_ref().unwrap().name, "cni");
        drop(left); // and again
    }
    let found = state.unfinished().unwrap().left;
    for left in found {
        left.remove().unwrap();
    }
    claim(&state, "a", None);
}

#[test]
fn hooks_are_noted_until_they_have_heard() {
    let (_directory, state) = state();
    let hooks = HooksRecord {
        container: "c".into(),
        hooks: serde_json::from_str(r#"[{"path": "/bin/true", "timeout": 5}]"#).unwrap(),
        state: serde_json::json!({"id": "c", "status": "stopped"}),
        directory: Some("/".into()),
    };
    let mut dir = claim(&state, "a", None);
    let noted = hooks.clone();
    dir.note(|record| record.hooks.push(noted))().unwrap();
    dir.leave();
    assert!(swept(&state).is_empty());
    let mut left = state.unfinished().unwrap().left.remove(0);
    assert_eq!(left.record().hooks, [hooks]);
    left.note(|record| record.hooks.clear())().unwrap();
    drop(left); // they have heard, and the process died
    assert_eq!(swept(&state), ["a"]);
}

#[test]
fn a_record_that_cannot_be_read_is_told_and_kept_and_others_are_swept() {
    let (_directory, state) = state();
    for id in ["a", "b", "c", "live"] {
        claim(&state, id, None).leave();
    }
    let _live = claim(&state, "live", None);
    let file = |id: &str| state.path().join(id).join("state.json");
    std::fs::write(file("a"), "{").unwrap();
    std::fs::write(file("live"), "{").unwrap();
    let later = std::fs::read_to_string(file("b")).unwrap();
    std::fs::write(file("b"), later.replace("\"version\": 2", "\"version\": 3")).unwrap();
    let swept = state.sweep().unwrap();
    assert_eq!(swept.removed, ["c"]);
    let mut told: Vec<_> = swept.failed.iter().map(|it| it.id.as_str()).collect();
    told.sort_unstable();
    assert_eq!(told, ["a", "b"]);
    for failed in &swept.failed {
        let error = &failed.error;
        assert!(matches!(error, JournalError::Unreadable { .. }), "{error}");
        assert!(error.to_string().contains("state.json"), "{error}");
    }
    assert_eq!(state.ids().unwrap(), ["a", "b", "live"]);
    let error = state.claim(&record("a", None)).unwrap_err();
    assert!(matches!(error, JournalError::Unreadable { .. }), "{error}");
    assert!(state.unfinished().unwrap().left.is_empty());
}

#[test]
fn what_cannot_be_undone_keeps_no_other_from_being_swept() {
    let (directory, state) = state();
    // A directory that something is in is no group that can be removed.
    let stuck = directory.path().join("group");
    std::fs::create_dir(&stuck).unwrap();
    std::fs::write(stuck.join("file"), "").unwrap();
    for (id, network) in [("a", None), ("b", Some("cni")), ("c", None)] {
        let mut dir = claim(&state, id, network);
        let cgroups = if id == "c" {
            vec![]
        } else {
            vec![stuck.clone()]
        };
        dir.note(|record| record.cgroups = cgroups)().unwrap();
        dir.leave();
    }
    let swept = state.sweep().unwrap();
    assert_eq!(swept.removed, ["c"]);
    assert_eq!(swept.failed[0].id, "a");
    let unfinished = state.unfinished().unwrap();
    assert!(unfinished.left.is_empty());
    assert_eq!(unfinished.failed[0].id, "b");
}

#[test]
fn a_state_directory_that_is_none_is_told_apart() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for path in [file.path().to_owned(), file.path().join("below")] {
        let state = StateDir::new(path, Steps::default());
        let error = state.claim(&record("a", None)).unwrap_err();
        assert!(matches!(error, JournalError::NoDirectory(_)), "{error:?}");
        assert!(matches!(state.sweep(), Err(JournalError::NoDirectory(_))));
    }
}

#[test]
fn a_sweep_leaves_alone_what_is_not_its_own() {
    let (_directory, state) = state();
    assert!(swept(&state).is_empty());
    std::fs::create_dir_all(state.path().join("somebody's")).unwrap();
    assert!(swept(&state).is_empty());
    assert!(state.path().join("somebody's").is_dir());
}

#[test]
fn what_was_half_made_or_half_removed_is_swept() {
    let (_directory, state) = state();
    for half in [NEW, ".gone-1"] {
        std::fs::create_dir_all(state.path().join(half).join("vm")).unwrap();
    }
    assert!(swept(&state).is_empty());
    for half in [NEW, ".gone-1"] {
        assert!(!state.path().join(half).exists(), "{half}");
    }
    std::fs::create_dir_all(state.path().join(NEW).join("vm")).unwrap();
    let _dir = claim(&state, "a", None);
    assert!(!state.path().join(NEW).exists());
    assert_eq!(state.ids().unwrap(), ["a"]);
}

#[test]
fn a_monitor_that_outlives_its_process_is_ended_before_the_directory_goes() {
    let (_directory, state) = state();
    let mut sleep = std::process::Command::new("sleep");
    let mut monitor = sleep.arg("1000").spawn().unwrap();
    let mut dir = claim(&state, "a", None);
    let pid = monitor.id();
    dir.note(|record| record.monitor = Some(ProcessId::of(pid)))().unwrap();
    dir.leave();
    assert_eq!(swept(&state), ["a"]);
    assert!(!monitor.wait().unwrap().success());
}

#[test]
fn who_has_a_sandbox_is_told_by_its_lock() {
    let (_directory, state) = state();
    assert_eq!(state.occupant("a"), Occupant::Nobody);
    let dir = claim(&state, "a", None);
    let own = Some(std::process::id());
    assert_eq!(state.occupant("a"), Occupant::Process(own));
    dir.leave();
    assert_eq!(state.occupant("a"), Occupant::Dead);
}

#[test]
fn a_crash_before_the_lock_leaves_what_the_next_claim_replaces() {
    let (_directory, state) = state();
    std::fs::create_dir_all(state.path().join("a")).unwrap();
    claim(&state, "a", None);
}

#[test]
fn long_ids_still_have_short_socket_paths() {
    let id = "x".repeat(255);
    let state = |path| StateDir::new(path, Steps::default());
    assert!(state("/run/user/1000/kata".into()).sockets_fit(&id));
    assert!(!state(format!("/{}", "d".repeat(90)).into()).sockets_fit("a"));
}

#[test]
fn a_group_in_which_something_still_ends_is_removed_when_it_has() {
    let name = format!("/kata-test-{}-ends/a", std::process::id());
    let plan = crate::cgroup::Plan::new(&name).unwrap();
    let made = plan.missing().to_vec();
    let Ok(group) = plan.make(&crate::cgroup::HostLimits::default()) else {
        eprintln!("skipped: this user makes no control groups here");
        return;
    };
    let mut child = std::process::Command::new("/bin/sh")
        .args(["-c", "read line"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    for procs in group.procs() {
        std::fs::write(procs, child.id().to_string()).unwrap();
    }
    std::mem::forget(group); // as a process that was killed does
    let (_directory, state) = state();
    let mut dir = claim(&state, "a", None);
    let noted = made.clone();
    dir.note(|record| record.cgroups = noted)().unwrap();
    dir.leave();
    let sweeping = std::thread::spawn(move || swept(&state));
    drop(child.stdin.take()); // it ends by itself
    assert_eq!(sweeping.join().unwrap(), ["a"]);
    assert!(made.iter().all(|group| !group.exists()));
    child.wait().unwrap();
}
