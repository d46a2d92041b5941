//! Control groups, in directories that look like hierarchies and in real ones.

use super::*;

fn unified(mount: &Path) -> Hierarchy {
    Hierarchy {
        mount: mount.to_owned(),
        version: Version::Unified,
    }
}

#[test]
fn only_what_was_made_is_removed() {
    let root = tempfile::tempdir().unwrap();
    let mount = root.path();
    std::fs::create_dir(mount.join("there")).unwrap();
    for directory in ["", "there"] {
        std::fs::write(mount.join(directory).join("cgroup.controllers"), "").unwrap();
    }
    let plan = Plan::on(&[unified(mount)], "/there/a/b").unwrap();
    let made = [mount.join("there/a"), mount.join("there/a/b")];
    assert_eq!(plan.missing(), made);
    // The kernel puts its files into new groups; here nobody does.
    let mut plan = plan;
    plan.groups[0].hierarchy.version = Version::Controllers(vec![]);
    let cgroup = plan.make(&HostLimits::default()).unwrap();
    assert_eq!(cgroup.procs(), [mount.join("there/a/b/cgroup.procs")]);
    std::fs::create_dir(mount.join("there/a/other")).unwrap();
    cgroup.remove().unwrap();
    assert!(mount.join("there/a/other").is_dir());
    assert!(!made[1].exists());
}

#[test]
fn a_group_that_fails_half_way_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let plan = Plan::on(&[unified(root.path())], "a").unwrap();
    // It has no list of controllers: this is no hierarchy.
    let error = plan.make(&HostLimits::default()).unwrap_err();
    assert!(error.to_string().contains("cgroup.controllers"), "{error}");
    assert!(!root.path().join("a").exists());
}

#[test]
fn a_host_without_control_groups_says_so() {
    let error = Plan::on(&[], "a").unwrap_err();
    assert!(error.to_string().contains("no control groups"), "{error}");
}

#[test]
fn a_process_is_put_into_a_real_group_with_its_limits() {
    limits_of(&format!("/kata-test-{}/a", std::process::id()));
}

#[test]
fn a_group_may_be_named_as_systemd_names_units() {
    limits_of(&format!("katatest{}-a.slice:kata:pod", std::process::id()));
}

/// Puts a process into a group of that name, on whatever this host has.
fn limits_of(name: &str) {
    let plan = Plan::new(name).unwrap();
    let resources = serde_json::json!({
        "cpu": {"shares": 512, "quota": 50_000, "period": 100_000}, "memory": {"limit": 1},
    });
    let limits = HostLimits::of(&serde_json::from_value(resources).unwrap()).memory(1 << 30);
    let cgroup = match plan.make(&limits) {
        Ok(cgroup) => cgroup,
        Err(error) => {
            eprintln!("skipped: this user makes no control groups here: {error}");
            return;
        }
    };
    let mut child = std::process::Command::new("/bin/sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    for procs in cgroup.procs() {
        std::fs::write(&procs, child.id().to_string()).unwrap();
    }
    let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", child.id())).unwrap();
    for group in &cgroup.groups {
        // A hierarchy that is mounted nowhere is none.
        let it = group.hierarchy.group_of(&groups);
        assert_eq!(it.as_ref(), Some(&group.directory), "{groups}");
    }
    let read = |file: &str| {
        let files = cgroup.groups.iter().map(|group| group.directory.join(file));
        let found = files.filter_map(|path| std::fs::read_to_string(path).ok());
        found.map(|text| text.trim().to_owned()).collect::<Vec<_>>()
    };
    assert!(
        read("cpu.shares") == ["512"] || read("cpu.weight") == ["20"],
        "{groups}"
    );
    assert!(
        read("memory.limit_in_bytes") == ["1073741824"] || read("memory.max") == ["1073741824"],
        "{groups}"
    );
    child.kill().unwrap();
    child.wait().unwrap();
    let directories: Vec<_> = cgroup
        .groups
        .iter()
        .map(|it| it.directory.clone())
        .collect();
    cgroup.remove().unwrap();
    for directory in directories {
        assert!(!directory.parent().unwrap().exists(), "{directory:?}");
    }
}

#[test]
fn groups_that_others_are_in_by_now_stay() {
    let root = tempfile::tempdir().unwrap();
    let (outer, inner) = (root.path().join("a"), root.path().join("a/b"));
    std::fs::create_dir_all(&inner).unwrap();
    std::fs::create_dir(outer.join("other")).unwrap();
    let made = [outer.clone(), inner.clone(), root.path().join("never")];
    remove(&made).unwrap();
    assert!(outer.is_dir() && !inner.exists());
}

#[test]
fn processes_of_groups_are_those_of_all_of_them() {
    let root = tempfile::tempdir().unwrap();
    let groups = ["a", "b", "never"].map(|name| root.path().join(name));
    for (group, list) in groups.iter().zip(["7\n8\n", "8\n9\n"]) {
        std::fs::create_dir(group).unwrap();
        std::fs::write(group.join("cgroup.procs"), list).unwrap();
    }
    assert_eq!(processes(&groups), BTreeSet::from([7, 8, 9]));
}
