//! Terminals: on a console socket, and on the caller's own.
#![expect(clippy::unwrap_used, reason = "a suite ends where it fails")]

mod common;

use std::fs::File;
use std::io::{IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixListener;
use std::process::Command;

use common::{lacks_guest, ran, runtimes};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::json;

/// What a runtime sends to a console socket.
fn receive(listener: &UnixListener) -> File {
    let (socket, _) = listener.accept().unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0; 128];
    let mut into = [IoSliceMut::new(&mut name)];
    recvmsg(
        socket.as_fd(),
        &mut into,
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )
    .unwrap();
    let mut descriptors = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => fds.collect(),
        _ => Vec::new(),
    });
    File::from(descriptors.next().unwrap())
}

/// Reads until the words are there, or the other end is closed.
fn read_until(master: &mut File, words: &str) -> String {
    let mut text = String::new();
    let mut bytes = [0; 256];
    while !text.contains(words) {
        match master.read(&mut bytes) {
            Ok(count @ 1..) => text.push_str(&String::from_utf8_lossy(&bytes[..count])),
            _ => break,
        }
    }
    assert!(text.contains(words), "{text}");
    text
}

#[test]
fn a_console_socket_is_sent_a_terminal_with_its_size_and_its_signals() {
    if let Some(reason) = lacks_guest() {
        return eprintln!("skipped: {reason}");
    }
    for runtime in runtimes() {
        let script = "trap 'echo caught; exit 3' INT; tty; echo ready; read line; stty size; \
             echo got $line; while true; do sleep 0.1; done";
        runtime.bundle_with(&["/bin/sh", "-c", script], |spec| {
            spec["process"]["terminal"] = json!(true);
        });
        let path = runtime.directory.path().join("console");
        let listener = UnixListener::bind(&path).unwrap();
        runtime.ok(&["create", "--console-socket", path.to_str().unwrap(), "c1"]);
        let mut master = receive(&listener);
        runtime.ok(&["start", "c1"]);
        read_until(&mut master, "ready");
        let size = Winsize {
            ws_row: 40,
            ws_col: 100,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&master, size).unwrap();
        // The size is known in the guest when a further process is told it.
        runtime.ok(&["exec", "c1", "/bin/true"]);
        master.write_all(b"word\n").unwrap();
        let text = read_until(&mut master, "got word");
        assert!(text.contains("40 100"), "{}: {text}", runtime.name);
        // Ctrl-C, which the terminal makes a signal of.
        master.write_all(b"\x03").unwrap();
        read_until(&mut master, "caught");
        runtime.wait_stopped("c1");
        runtime.ok(&["delete", "c1"]);
    }
}

#[test]
fn a_terminal_of_ones_own_is_the_containers_while_it_runs() {
    if let Some(reason) = lacks_guest() {
        return eprintln!("skipped: {reason}");
    }
    for runtime in runtimes() {
        let bundle = runtime.bundle_with(&["/bin/sh", "-c", "tty; exit 5"], |spec| {
            spec["process"]["terminal"] = json!(true);
        });
        let run = runtime.command(&["run", "c1"]);
        let words = std::iter::once(run.get_program()).chain(run.get_args());
        let line: Vec<&str> = words.map(|word| word.to_str().unwrap()).collect();
        let mut script = Command::new("script");
        script.args(["-qec", &line.join(" "), "/dev/null"]);
        script.current_dir(&bundle);
        let ran = ran(&script, "");
        assert_eq!(ran.code, Some(5), "{}: {}", runtime.name, ran.stdout);
        assert!(
            ran.stdout.contains("/dev/"),
            "{}: {}",
            runtime.name,
            ran.stdout
        );
    }
}
