use super::*;
use crate::qemu::Qemu;
use crate::vm::Hypervisor;

fn answers() -> Answers {
    Answers {
        version: Version::OLDEST,
        devices: NEEDED.map(str::to_owned).to_vec(),
        machines: Vec::new(),
        sandbox: true,
        kvm: true,
    }
}

fn blockers(probe: &Probe) -> Vec<&str> {
    let blockers = probe
        .findings
        .iter()
        .filter(|f| f.severity == Severity::Blocker);
    blockers.map(|finding| finding.what.as_str()).collect()
}

fn judged(verdict: &Verdict, wanted: Option<Acceleration>) -> (bool, Probe) {
    let mut probe = Probe::default();
    let settings = Settings {
        acceleration: wanted,
        ..Settings::default()
    };
    let kvm = judge_kvm(verdict, &answers(), &settings, &mut probe);
    (kvm, probe)
}

#[test]
fn a_build_with_everything_is_not_complained_of() {
    let mut probe = Probe::default();
    judge_build(&answers(), &mut probe);
    assert_eq!(probe.findings, []);
}

#[test]
fn a_build_that_is_too_old_or_lacks_a_device_blocks() {
    let mut probe = Probe::default();
    let version = Version {
        major: 5,
        minor: 2,
        micro: 0,
    };
    judge_build(
        &Answers {
            version,
            devices: Vec::new(),
            ..answers()
        },
        &mut probe,
    );
    assert_eq!(blockers(&probe).len(), 3);
    assert!(blockers(&probe)[0].contains("5.2.0 is older than 6.2.0"));
}

#[test]
fn a_missing_filter_is_a_warning() {
    let mut probe = Probe::default();
    judge_build(
        &Answers {
            sandbox: false,
            ..answers()
        },
        &mut probe,
    );
    assert_eq!(probe.findings[0].severity, Severity::Warning);
}

#[test]
fn kvm_that_works_is_used_without_a_word() {
    assert_eq!(judged(&Verdict::Works, None), (true, Probe::default()));
}

#[test]
fn kvm_that_does_not_work_is_a_warning_with_a_remedy() {
    let denied = std::io::Error::from_raw_os_error(libc::EACCES);
    let pvm = Verdict::NoStockKernel {
        pvm: true,
        what: "int3".to_owned(),
    };
    for verdict in [
        Verdict::Missing,
        Verdict::Unopenable(denied),
        Verdict::Unusable("x".to_owned()),
        pvm,
    ] {
        let (kvm, probe) = judged(&verdict, None);
        assert!(!kvm);
        assert_eq!(probe.findings[0].severity, Severity::Warning, "{verdict:?}");
        assert!(probe.findings[0].remedy.is_some(), "{verdict:?}");
    }
}

#[test]
fn kvm_that_was_asked_for_and_does_not_work_blocks() {
    let (kvm, probe) = judged(&Verdict::Missing, Some(Acceleration::Kvm));
    assert!(!kvm);
    assert_eq!(blockers(&probe), ["/dev/kvm is not there"]);
}

#[test]
fn emulation_that_was_asked_for_is_given() {
    let (kvm, probe) = judged(&Verdict::Works, Some(Acceleration::Emulation));
    assert!(!kvm);
    assert_eq!(probe.findings[0].severity, Severity::Note);
}

// On x86_64 alone has KVM this module; and where it is emulated, it answers nothing.
#[cfg(target_arch = "x86_64")]
#[test]
fn examining_kvm_agrees_with_the_modules_of_the_host() {
    let verdict = examine(Path::new(DEVICE));
    if Path::new("/sys/module/kvm_pvm").exists() && Path::new("/dev/kvm").exists() {
        assert!(
            matches!(verdict, Verdict::NoStockKernel { pvm: true, .. }),
            "{verdict:?}"
        );
    } else if !Path::new("/dev/kvm").exists() {
        assert!(matches!(verdict, Verdict::Missing), "{verdict:?}");
    }
}

/// A shell script in the place of QEMU. Another process writes it: had this one
/// the file open, a fork of another test could still hold it, and it could not
/// be executed ("text file busy"). Bash, for dash cannot name descriptor 10.
fn script(text: &str) -> (tempfile::TempDir, Qemu) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("qemu");
    let status = std::process::Command::new("sh")
        .args([
            "-c",
            r#"printf '#!/bin/bash\n%s\n' "$1" > "$0" && chmod 755 "$0""#,
        ])
        .arg(&path)
        .arg(text)
        .status();
    assert!(status.unwrap().success());
    (dir, Qemu::new().binary(path))
}

#[tokio::test]
async fn a_binary_that_is_not_there_blocks_and_is_named() {
    let probe = Qemu::new().binary("/nonexistent/qemu").probe().await;
    assert!(!probe.is_usable());
    assert!(
        blockers(&probe)[0].contains("/nonexistent/qemu"),
        "{probe:?}"
    );
}

#[tokio::test]
async fn a_binary_that_complains_and_exits_is_quoted() {
    let (_dir, qemu) = script("echo 'libfoo.so: cannot open' >&2; exit 127");
    let probe = qemu.probe().await;
    assert!(!probe.is_usable());
    let what = blockers(&probe)[0];
    assert!(
        what.contains("status 127") && what.contains("libfoo.so"),
        "{what}"
    );
}

#[tokio::test]
async fn a_binary_that_speaks_garbage_is_told_apart() {
    // The monitor's descriptor is in the arguments: fd=N.
    let (_dir, qemu) =
        script(r#"for a; do case $a in *fd=*) echo hello >&${a##*fd=};; esac; done; sleep 100"#);
    let probe = qemu.probe().await;
    assert!(blockers(&probe)[0].contains("garbage"), "{probe:?}");
}

#[tokio::test]
async fn the_probe_of_this_hosts_qemu_is_quick_and_kept() {
    let qemu = Qemu::new();
    let first = qemu.probe().await;
    if !first.is_usable() {
        eprintln!("skipped: {:?}", first.findings);
        return;
    }
    let facts = qemu.facts().await.unwrap();
    assert!(facts.probe.version.is_some());
    assert_eq!(qemu.probe().await, first);
}

#[tokio::test]
async fn what_another_process_found_out_is_not_asked_again() {
    let first = Qemu::new();
    if !first.probe().await.is_usable() {
        eprintln!("skipped: QEMU does not work here");
        return;
    }
    let mut known: Value = serde_json::from_str(&first.knowledge().unwrap()).unwrap();
    known["answers"]["version"]["micro"] = json!(9999);
    let second = Qemu::new();
    second.recall("nonsense");
    second.recall(&known.to_string());
    let version = second.probe().await.version.unwrap();
    assert!(version.ends_with(".9999"), "{version}");
    known["mark"]["inode"] = json!(0);
    let third = Qemu::new();
    third.recall(&known.to_string());
    assert_eq!(third.probe().await.version, first.probe().await.version);
}
