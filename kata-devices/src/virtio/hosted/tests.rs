//! What others see of a device whose thread works for long.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};

use super::*;
use crate::epoll::Readiness;

/// A device that works until it is told to be done.
struct Slow {
    began: Sender<()>,
    done: Receiver<()>,
    /// Dropped with it.
    _open: Sender<()>,
}

impl Driven for Slow {
    fn kind(&self) -> DeviceKind {
        DeviceKind::BLOCK
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![16]
    }

    fn config(&self) -> Vec<u8> {
        vec![1, 2, 3]
    }

    fn start(&mut self, _index: usize, _queue: DeviceQueue) -> io::Result<()> {
        Ok(())
    }

    fn stop(&mut self, _index: usize) -> Option<DeviceQueue> {
        None
    }

    fn handle(&mut self, _readiness: Readiness) {}

    fn proceed(&mut self) -> bool {
        // A test that is over hears nothing, and says nothing.
        let _ = self.began.send(());
        let _ = self.done.recv();
        false
    }
}

/// A device at work; what makes it be done; and what says that it is no more.
fn at_work() -> (Hosted<Slow>, Sender<()>, Receiver<()>) {
    let (began, has_begun) = channel();
    let (finish, done) = channel();
    let (open, closed) = channel();
    let make = |_: &Arc<Epoll>| {
        Ok(Slow {
            began,
            done,
            _open: open,
        })
    };
    let hosted = Hosted::start("slow", &ThreadStart::default(), make).unwrap();
    hosted.shared.wake.raise();
    has_begun.recv().unwrap();
    (hosted, finish, closed)
}

#[test]
fn the_configuration_is_read_while_the_device_works() {
    let (hosted, finish, _closed) = at_work();
    let (answer, answers) = channel();
    let hosted = std::thread::spawn(move || {
        answer.send(hosted.config()).unwrap();
        hosted
    });
    let read = answers.recv_timeout(Duration::from_secs(20));
    // Or everybody waits for ever.
    drop(finish);
    assert_eq!(read, Ok(vec![1, 2, 3]));
    drop(hosted.join());
}

#[test]
fn a_device_that_was_dropped_has_let_go_however_long_it_took() {
    let (hosted, finish, closed) = at_work();
    let (dropped, drops) = channel();
    let dropping = std::thread::spawn(move || {
        drop(hosted);
        // What the device had open is closed by now.
        dropped.send(closed.try_recv()).unwrap();
    });
    let early = drops.recv_timeout(GRACE + Duration::from_secs(1));
    assert_eq!(early, Err(RecvTimeoutError::Timeout));
    finish.send(()).unwrap();
    let late = drops.recv_timeout(Duration::from_secs(20));
    assert_eq!(late, Ok(Err(std::sync::mpsc::TryRecvError::Disconnected)));
    dropping.join().unwrap();
}
