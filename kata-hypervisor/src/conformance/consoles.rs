//! Consoles of the guest's programs.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as Pair;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::guest::Guest;
use super::machine::{Machine, Place, chain};
use super::subject::Subject;
use crate::error::Error;
use crate::port::ConsoleConfig;

/// What a program of the guest writes to its console arrives, and it reads what is
/// typed.
///
/// # Panics
/// When the backend does otherwise.
pub async fn a_console_carries_words_both_ways(subject: &Subject) {
    let place = Place::new();
    let mut config = place.config(subject);
    let (ours, theirs) = Pair::pair().expect("sockets can be had");
    let theirs = Arc::new(OwnedFd::from(theirs));
    config.devices.console = Some(ConsoleConfig {
        input: Some(Arc::clone(&theirs)),
        output: theirs,
    });
    let machine = match Machine::of(subject, place, config).await {
        Ok(machine) => machine.up().await,
        Err(Error::Unsupported { .. }) => {
            eprintln!("skipped: this backend has no consoles of programs");
            return;
        }
        Err(error) => panic!("create: {}", chain(&error)),
    };
    ours.set_nonblocking(true).expect("a socket can be so");
    let mut ours = UnixStream::from_std(ours).expect("a runtime");
    // The guest's terminal waits for the end of a line.
    let talk = async {
        ours.write_all(b"typed\n").await?;
        let answer = machine.asked(Guest::CONSOLE, "written").await;
        assert_eq!(answer, "typed\n");
        // The terminal's echo of our line comes before or after it.
        let mut heard = String::new();
        while !heard.contains("written") {
            let mut bytes = [0; 64];
            let count = ours.read(&mut bytes).await?;
            assert_ne!(count, 0, "the console ended after {heard:?}");
            heard.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
        Ok::<_, std::io::Error>(())
    };
    let talked = timeout(subject.patience, talk).await;
    talked.expect("words in time").expect("words");
    machine.assert_clean().await;
}
