//! What happens in sandboxes, told to whoever listens.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use futures_core::Stream;

use crate::exit::Exit;
use crate::state::{ContainerState, SandboxState};

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Event {
    /// A sandbox came into another state.
    SandboxState {
        /// Id of the sandbox.
        sandbox: String,
        /// Its state now.
        state: SandboxState,
    },
    /// A container came into another state.
    ContainerState {
        /// Id of the sandbox.
        sandbox: String,
        /// Id of the container.
        container: String,
        /// Its state now.
        state: ContainerState,
    },
    /// A container's first process ended.
    ContainerExited {
        /// Id of the sandbox.
        sandbox: String,
        /// Id of the container.
        container: String,
        /// How it ended.
        exit: Exit,
    },
    /// A container was taken away.
    ContainerDeleted {
        /// Id of the sandbox.
        sandbox: String,
        /// Id of the container.
        container: String,
    },
    /// The kernel killed something because a container ran out of memory.
    Oom {
        /// Id of the sandbox.
        sandbox: String,
        /// Id of the container.
        container: String,
    },
    /// This listener was slower than the events.
    Lagged {
        /// How many events it missed, older than the next one.
        missed: u64,
    },
}

impl Event {
    /// Id of the sandbox it happened in; `None` for [`Event::Lagged`].
    #[must_use]
    pub fn sandbox(&self) -> Option<&str> {
        match self {
            Self::SandboxState { sandbox, .. }
            | Self::ContainerState { sandbox, .. }
            | Self::ContainerExited { sandbox, .. }
            | Self::ContainerDeleted { sandbox, .. }
            | Self::Oom { sandbox, .. } => Some(sandbox),
            Self::Lagged { .. } => None,
        }
    }

    /// Id of the container it happened to, where it happened to one.
    #[must_use]
    pub fn container(&self) -> Option<&str> {
        match self {
            Self::ContainerState { container, .. }
            | Self::ContainerExited { container, .. }
            | Self::ContainerDeleted { container, .. }
            | Self::Oom { container, .. } => Some(container),
            Self::SandboxState { .. } | Self::Lagged { .. } => None,
        }
    }
}

/// Events kept for a listener that does not listen right now.
const BACKLOG: usize = 256;

/// Tells every listener every event.
#[derive(Clone, Debug, Default)]
pub(crate) struct EventHub(Arc<Mutex<Vec<Weak<Mailbox>>>>);

#[derive(Debug)]
struct Mailbox {
    /// Of this sandbox only, where it is given.
    sandbox: Option<String>,
    letters: Mutex<Letters>,
}

#[derive(Debug, Default)]
struct Letters {
    queue: VecDeque<Event>,
    missed: u64,
    ended: bool,
    waker: Option<Waker>,
}

impl Letters {
    fn take(&mut self) -> Option<Event> {
        if self.missed > 0 {
            let missed = std::mem::take(&mut self.missed);
            return Some(Event::Lagged { missed });
        }
        self.queue.pop_front()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl EventHub {
    pub(crate) fn send(&self, event: &Event) {
        let mut mailboxes = lock(&self.0);
        mailboxes.retain(|mailbox| match mailbox.upgrade() {
            Some(mailbox) => {
                mailbox.put(event);
                true
            }
            None => false,
        });
    }

    /// Tells those who listen to the sandbox that so many of its events were
    /// lost on their way here.
    pub(crate) fn missed(&self, sandbox: &str, missed: u64) {
        for mailbox in lock(&self.0).iter().filter_map(Weak::upgrade) {
            if mailbox.sandbox.as_deref().is_none_or(|it| it == sandbox) {
                mailbox.miss(missed);
            }
        }
    }

    /// Listens to every event from now on, or to one sandbox's.
    pub(crate) fn listen(&self, sandbox: Option<&str>) -> Events {
        let mailbox = Arc::new(Mailbox {
            sandbox: sandbox.map(str::to_owned),
            letters: Mutex::default(),
        });
        lock(&self.0).push(Arc::downgrade(&mailbox));
        Events {
            mailbox,
            hub: self.clone(),
        }
    }
}

impl Mailbox {
    fn miss(&self, missed: u64) {
        let mut letters = lock(&self.letters);
        letters.missed += missed;
        let waker = letters.waker.take();
        drop(letters);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn put(&self, event: &Event) {
        if self
            .sandbox
            .as_deref()
            .is_some_and(|wanted| event.sandbox() != Some(wanted))
        {
            return;
        }
        let mut letters = lock(&self.letters);
        if letters.queue.len() == BACKLOG {
            letters.queue.pop_front();
            letters.missed += 1;
        }
        letters.queue.push_back(event.clone());
        // A sandbox's own stream ends with the sandbox.
        letters.ended |= self.sandbox.is_some()
            && matches!(event, Event::SandboxState { state, .. } if state.has_ended());
        let waker = letters.waker.take();
        drop(letters);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A listener to events, from the moment it was made.
///
/// It keeps the last 256 events for a listener that is slow; when there were
/// more, the next one is [`Event::Lagged`]. The stream of one sandbox ends with
/// it, that of a runtime never ends. It keeps no sandbox alive.
#[derive(Debug)]
pub struct Events {
    mailbox: Arc<Mailbox>,
    /// Keeps the stream of a runtime from outliving all who could send.
    hub: EventHub,
}

impl Events {
    /// Waits for the next event; `None` when there will be no more.
    pub async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// The next event, if there is one already.
    pub(crate) fn take(&mut self) -> Option<Event> {
        lock(&self.mailbox.letters).take()
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let mut letters = lock(&self.mailbox.letters);
        match letters.take() {
            Some(event) => Poll::Ready(Some(event)),
            None if letters.ended => Poll::Ready(None),
            None => {
                letters.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let own = Arc::downgrade(&self.mailbox);
        lock(&self.hub.0).retain(|mailbox| !mailbox.ptr_eq(&own));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(sandbox: &str) -> Event {
        Event::SandboxState {
            sandbox: sandbox.into(),
            state: SandboxState::Running,
        }
    }

    #[tokio::test]
    async fn every_listener_hears_every_event_from_its_beginning_on() {
        let hub = EventHub::default();
        hub.send(&running("before"));
        let (mut one, mut two) = (hub.listen(None), hub.listen(None));
        hub.send(&running("a"));
        assert_eq!(one.next().await, Some(running("a")));
        assert_eq!(two.next().await, Some(running("a")));
    }

    #[tokio::test]
    async fn a_slow_listener_learns_how_many_it_missed() {
        let hub = EventHub::default();
        let mut events = hub.listen(None);
        for number in 0..BACKLOG + 3 {
            hub.send(&running(&number.to_string()));
        }
        assert_eq!(events.next().await, Some(Event::Lagged { missed: 3 }));
        assert_eq!(events.next().await, Some(running("3")));
    }

    #[tokio::test]
    async fn what_was_lost_on_the_way_is_told_to_those_who_listen_to_that_sandbox() {
        let hub = EventHub::default();
        let (mut all, mut one) = (hub.listen(None), hub.listen(Some("a")));
        let mut other = hub.listen(Some("b"));
        hub.missed("a", 5);
        assert_eq!(all.next().await, Some(Event::Lagged { missed: 5 }));
        assert_eq!(one.next().await, Some(Event::Lagged { missed: 5 }));
        assert_eq!(other.take(), None);
    }

    #[tokio::test]
    async fn a_sandboxs_own_stream_hears_no_other_and_ends_with_it() {
        let hub = EventHub::default();
        let mut events = hub.listen(Some("a"));
        let end = Event::SandboxState {
            sandbox: "a".into(),
            state: SandboxState::Stopped,
        };
        hub.send(&running("b"));
        hub.send(&end);
        assert_eq!(events.next().await, Some(end));
        assert_eq!(events.next().await, None);
    }

    #[tokio::test]
    async fn a_waiting_listener_is_woken() {
        let hub = EventHub::default();
        let mut events = hub.listen(None);
        let waiting = tokio::spawn(async move { events.next().await });
        tokio::task::yield_now().await;
        hub.send(&running("a"));
        assert_eq!(waiting.await.unwrap(), Some(running("a")));
    }

    #[test]
    fn a_dropped_listener_is_forgotten() {
        let hub = EventHub::default();
        drop(hub.listen(None));
        assert!(lock(&hub.0).is_empty());
    }
}
