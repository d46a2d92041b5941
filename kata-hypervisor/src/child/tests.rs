use std::ffi::OsString;
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use super::*;

fn shell(script: &str) -> Program {
    let args = ["-c", script].map(OsString::from).to_vec();
    Program {
        path: "/bin/sh".into(),
        args,
        inherit: Vec::new(),
        cgroup: Vec::new(),
        confinement: Confinement::default(),
    }
}

async fn run(script: &str) -> Child {
    Child::spawn(shell(script), "test", Box::new(()))
        .await
        .unwrap()
}

async fn end_of(child: &Child) -> End {
    tokio::time::timeout(Duration::from_secs(20), child.ended())
        .await
        .unwrap()
}

/// Says when it is dropped.
struct Loan(Option<oneshot::Sender<()>>);

impl Support for Loan {
    fn bells(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    fn failure(&self) -> Option<Failure> {
        None
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let _ = self.0.take().unwrap().send(());
    }
}

#[tokio::test]
async fn output_and_status_are_kept_apart() {
    let child = run("echo console; echo complaint >&2; exit 7").await;
    assert_eq!(end_of(&child).await, End::Exited(7));
    assert_eq!(child.output().console.bytes(), b"console\n");
    assert_eq!(child.output().stderr.text(), "complaint");
}

#[tokio::test]
async fn kill_ends_it_and_may_be_repeated() {
    let child = run("exec sleep 1000").await;
    child.kill();
    child.kill();
    assert_eq!(end_of(&child).await, End::Signalled(9));
    assert!(child.was_killed());
    child.kill();
}

#[tokio::test]
async fn killing_the_dead_is_not_a_kill() {
    let child = run("exit 0").await;
    end_of(&child).await;
    child.kill();
    assert!(!child.was_killed());
}

#[tokio::test]
async fn drop_kills_and_returns_what_was_lent() {
    let (sent, returned) = oneshot::channel();
    let child = Child::spawn(shell("exec sleep 1000"), "t", Box::new(Loan(Some(sent))))
        .await
        .unwrap();
    let pid = child.pid();
    drop(child);
    tokio::time::timeout(Duration::from_secs(20), returned)
        .await
        .unwrap()
        .unwrap();
    assert!(!Path::new(&format!("/proc/{}", pid.as_raw_nonzero())).exists());
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let program = Program {
        path: "/nonexistent/vmm".into(),
        args: Vec::new(),
        inherit: vec![],
        cgroup: vec![],
        confinement: Confinement::default(),
    };
    let error = Child::spawn(program, "t", Box::new(())).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot start /nonexistent/vmm");
}

#[tokio::test]
async fn only_the_descriptors_meant_for_it_are_inherited() {
    let (given, _other) = rustix::pipe::pipe().unwrap();
    let (leaky, _other2): (OwnedFd, OwnedFd) = rustix::pipe::pipe().unwrap();
    let number = given.as_raw_fd();
    let mut program = shell("for f in /proc/self/fd/*; do echo ${f##*/}; done");
    program.inherit.push(given);
    let child = Child::spawn(program, "t", Box::new(())).await.unwrap();
    end_of(&child).await;
    let console = String::from_utf8(child.output().console.bytes()).unwrap();
    let fds: Vec<i32> = console.lines().map(|line| line.parse().unwrap()).collect();
    assert!(fds.contains(&number), "{fds:?}");
    assert!(!fds.contains(&leaky.as_raw_fd()), "{fds:?}");
}

#[tokio::test]
async fn a_flood_of_output_costs_no_more_than_the_tail() {
    let child = run("yes | head -c 4000000; echo end").await;
    assert_eq!(end_of(&child).await, End::Exited(0));
    let tail = child.output().console.bytes();
    assert_eq!(tail.len(), CONSOLE_TAIL);
    assert!(tail.ends_with(b"end\n"));
}

#[test]
fn it_outlives_the_thread_and_the_runtime_that_asked_for_it() {
    let child = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(run("sleep 0.3; exit 3"))
    })
    .join()
    .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    assert_eq!(runtime.block_on(end_of(&child)), End::Exited(3));
}

/// Fails when its pipe is written to, with so much patience.
struct Crutch(OwnedFd, Duration);

impl Support for Crutch {
    fn bells(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.0.as_fd()]
    }

    fn failure(&self) -> Option<Failure> {
        rustix::io::ioctl_fionread(&self.0)
            .is_ok_and(|bytes| bytes > 0)
            .then(|| Failure {
                reason: "it broke".to_owned(),
                patience: self.1,
            })
    }
}

async fn lean(script: &str, patience: Duration) -> End {
    let (bell, rope) = rustix::pipe::pipe().unwrap();
    let crutch = Box::new(Crutch(bell, patience));
    let child = Child::spawn(shell(script), "t", crutch).await.unwrap();
    assert!(child.end().is_none());
    rustix::io::write(&rope, b"!").unwrap();
    let end = end_of(&child).await;
    assert!(!child.was_killed());
    end
}

#[tokio::test]
async fn a_child_whose_support_fails_is_killed_and_says_why() {
    let end = lean("exec sleep 1000", Duration::ZERO).await;
    assert_eq!(end, End::LetDown("it broke".to_owned()));
    assert_eq!(end.to_string(), "was killed because it broke");
    let end = lean("exec sleep 1000", Duration::from_millis(50)).await;
    assert_eq!(end, End::LetDown("it broke".to_owned()));
}

#[tokio::test]
async fn a_child_that_is_dying_anyway_says_so_itself() {
    let end = lean("sleep 0.2; exit 5", Duration::from_secs(15)).await;
    assert_eq!(end, End::Exited(5));
}

#[tokio::test]
async fn a_child_is_in_its_control_groups_before_it_runs() {
    // The list of processes of a group is any file that takes the number 0.
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut program = shell(&format!("cat {}", file.path().display()));
    program.cgroup = vec![file.reopen().unwrap().into()];
    let child = Child::spawn(program, "t", Box::new(())).await.unwrap();
    child.ended().await;
    assert_eq!(child.output().console.bytes(), b"0");
}

#[tokio::test]
async fn a_confined_program_has_namespaces_of_its_own_and_writes_where_it_may() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root makes namespaces");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (free, shut) = (directory.path().join("free"), directory.path().join("shut"));
    for file in [&free, &shut] {
        std::fs::write(file, "").unwrap();
    }
    let script = format!(
        "readlink /proc/self/ns/net /proc/self/ns/mnt /proc/self/ns/ipc /proc/self/ns/uts; \
         echo x > {} && echo free; echo x > {} || echo shut; echo x > /dev/null && echo device; \
         grep -c . /proc/net/dev",
        free.display(),
        shut.display()
    );
    let mut program = shell(&script);
    program.confinement = Confinement {
        namespaces: Namespaces::Own,
        needless: vec![c"/nonexistent".into()],
        read_only: true,
        writable: vec![std::ffi::CString::new(free.to_str().unwrap()).unwrap()],
        user: None,
    };
    let child = Child::spawn(program, "t", Box::new(())).await.unwrap();
    end_of(&child).await;
    let said = String::from_utf8(child.output().console.bytes()).unwrap();
    let lines: Vec<_> = said.lines().collect();
    for (kind, theirs) in ["net", "mnt", "ipc", "uts"].iter().zip(&lines) {
        let own = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert_ne!(own.to_str().unwrap(), *theirs, "{kind}");
    }
    assert_eq!(lines[4..7], ["free", "shut", "device"], "{said}");
    assert_eq!(std::fs::read(&free).unwrap(), b"x\n");
    assert_eq!(
        lines[7], "3",
        "two lines of titles and the loopback: {said}"
    );
    // And nothing of it is to be seen here.
    std::fs::write(&shut, "still writable").unwrap();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(free.to_str().unwrap()));
}

#[tokio::test]
async fn a_program_may_be_another_users() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can be another user");
        return;
    }
    let mut program = shell("id -u; id -g; id -G");
    program.confinement.user = Some(User {
        uid: 65534,
        gid: 65534,
        groups: vec![7],
    });
    let child = Child::spawn(program, "t", Box::new(())).await.unwrap();
    assert_eq!(end_of(&child).await, End::Exited(0));
    assert_eq!(child.output().console.bytes(), b"65534\n65534\n65534 7\n");
}
