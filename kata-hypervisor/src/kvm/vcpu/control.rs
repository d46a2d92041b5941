//! What the processors of a machine are to do.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rustix::process::Pid;
use tokio::sync::watch;

use super::kick;
use crate::kvm::ending::Ending;
use crate::vm::VmExit;

/// What all processors are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Held,
    Running,
    Over,
}

/// What a processor is to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Run the guest, whose time stood still for so many ticks since it began.
    Run { stood: u64 },
    /// Leave.
    Leave,
}

/// The thread of a processor.
#[derive(Clone, Copy, Debug)]
pub(in crate::kvm) struct Thread {
    /// Its number.
    pub(in crate::kvm) id: Pid,
    /// An address in its stack.
    pub(in crate::kvm) stack: usize,
}

/// Orders to the processors of a machine, and what became of them.
#[derive(Debug)]
pub(in crate::kvm) struct Control {
    state: Mutex<State>,
    changed: Condvar,
    /// The threads that can be kicked, by processor.
    threads: Mutex<Vec<Option<Thread>>>,
    /// Processors that are held.
    parked: watch::Sender<usize>,
    ending: Ending,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    stood: u64,
}

impl Control {
    /// Holds so many processors.
    pub(in crate::kvm) fn new(vcpus: usize) -> Self {
        Self {
            state: Mutex::new(State {
                phase: Phase::Held,
                stood: 0,
            }),
            changed: Condvar::new(),
            threads: Mutex::new(vec![None; vcpus]),
            parked: watch::Sender::new(0),
            ending: Ending::new(vcpus),
        }
    }

    /// How the machine ends.
    pub(in crate::kvm) fn ending(&self) -> &Ending {
        &self.ending
    }

    /// Lets held processors run. Their time stood still for so many ticks more.
    pub(in crate::kvm) fn release(&self, stood: u64) {
        let mut state = self.lock();
        if state.phase == Phase::Held {
            state.phase = Phase::Running;
            state.stood = state.stood.wrapping_add(stood);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Has running processors hold, and waits until all do or the machine ends.
    pub(in crate::kvm) async fn hold(&self) {
        {
            let mut state = self.lock();
            if state.phase == Phase::Running {
                state.phase = Phase::Held;
            }
        }
        self.kick_all();
        let vcpus = self.kickable().len();
        let mut parked = self.parked.subscribe();
        tokio::select! {
            _ = parked.wait_for(|parked| *parked >= vcpus) => {}
            _ = self.ending.over() => {}
        }
    }

    /// Ends the machine in this way, unless it has ended in another.
    pub(in crate::kvm) fn end(&self, exit: VmExit) {
        self.ending.decide(exit);
        self.lock().phase = Phase::Over;
        self.changed.notify_all();
        self.kick_all();
    }

    /// Waits until this processor may run.
    pub(super) fn turn(&self) -> Turn {
        let mut state = self.lock();
        if state.phase == Phase::Held {
            self.parked.send_modify(|parked| *parked += 1);
            state = self
                .changed
                .wait_while(state, |state| state.phase == Phase::Held)
                .unwrap_or_else(PoisonError::into_inner);
            self.parked.send_modify(|parked| *parked -= 1);
        }
        match state.phase {
            Phase::Over => Turn::Leave,
            Phase::Running | Phase::Held => Turn::Run { stood: state.stood },
        }
    }

    /// The thread of a processor can be kicked from now on.
    pub(super) fn enter(&self, vcpu: usize, thread: Thread) {
        if let Some(slot) = self.kickable().get_mut(vcpu) {
            *slot = Some(thread);
        }
    }

    /// The thread of a processor ends. A machine that loses one is over.
    pub(super) fn leave(&self, vcpu: usize) {
        if let Some(slot) = self.kickable().get_mut(vcpu) {
            *slot = None;
        }
        self.end(VmExit::Crashed {
            reason: format!("the thread of processor {vcpu} ended by itself"),
        });
        self.ending.left();
    }

    /// The threads that there are now.
    pub(in crate::kvm) fn threads(&self) -> Vec<Thread> {
        self.kickable().iter().flatten().copied().collect()
    }

    fn kick_all(&self) {
        // A thread takes itself off the list before it ends, so none of these
        // numbers can be another thread's yet.
        for thread in self.kickable().iter().flatten() {
            kick::kick(thread.id);
        }
    }

    fn kickable(&self) -> MutexGuard<'_, Vec<Option<Thread>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn processors_are_held_released_and_dismissed() {
        let control = Arc::new(Control::new(1));
        let (turns, seen) = std::sync::mpsc::channel();
        let thread = {
            let control = Arc::clone(&control);
            std::thread::spawn(move || {
                loop {
                    let turn = control.turn();
                    turns.send(turn).unwrap();
                    if turn == Turn::Leave {
                        return control.leave(0);
                    }
                    // As a processor that is kicked.
                    std::thread::yield_now();
                }
            })
        };
        control.hold().await;
        assert!(seen.try_recv().is_err(), "it is held from the beginning");
        control.release(7);
        assert_eq!(seen.recv().unwrap(), Turn::Run { stood: 7 });
        control.hold().await;
        while seen.try_recv().is_ok() {}
        control.release(1);
        assert_eq!(seen.recv().unwrap(), Turn::Run { stood: 8 });
        control.end(VmExit::PowerOff);
        assert_eq!(control.ending().over().await, VmExit::PowerOff);
        thread.join().unwrap();
        // What is over can neither be held nor released.
        control.hold().await;
        control.release(0);
        assert_eq!(control.turn(), Turn::Leave);
    }

    #[tokio::test]
    async fn a_thread_that_is_lost_ends_the_machine() {
        let control = Control::new(1);
        control.leave(0);
        let exit = control.ending().over().await;
        assert!(matches!(exit, VmExit::Crashed { reason } if reason.contains("processor 0")));
    }
}
