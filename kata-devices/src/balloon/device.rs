//! The device: pages from the queues to the host.

use std::io;
use std::sync::Arc;

use rustix::event::epoll::EventFlags;
use serde::{Deserialize, Serialize};
use vm_memory::GuestAddress;

use super::config::BalloonConfig;
use super::handle::{Balloon, PAGE, Shared};
use super::release::{page_size, release};
use super::stats::{BalloonStats, MAX_BYTES};
use crate::epoll::{Epoll, Readiness};
use crate::limit::Offences;
use crate::virtio::{
    Chain, ChainError, ConfigReader, DeviceEvents, DeviceKind, DeviceQueue, DeviceState, Driven,
    GuestMemory, QUEUE_FEATURES, QueueError, StateError, complete_and_notify,
};
use crate::{Error, Result, pieces};

const QUEUE_SIZE: u16 = 128;

/// Chains of a queue before others have their turn.
const BUDGET: usize = 32;

/// Bytes of page numbers in a chain after which others have their turn: each may
/// cost a call of the host.
const LONG: usize = 64 << 10;

/// Bytes of page numbers in one chain: as many as name 1 GiB.
const MAX_NUMBERS: usize = 1 << 20;

/// The host's hand.
const HANDLE: u64 = 1 << 32;

/// Features (virtio 1.2 §5.5.3), which the bindings do not have.
const STATS_VQ: u32 = 1;
const DEFLATE_ON_OOM: u32 = 2;
const REPORTING: u32 = 5;

/// What a queue is for. Their order is fixed, and those that were not negotiated
/// leave no gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Inflate,
    Deflate,
    Statistics,
    Reporting,
}

/// A virtio-balloon device.
pub(crate) struct Inflatable {
    epoll: Arc<Epoll>,
    shared: Arc<Shared>,
    offered: u64,
    roles: Vec<Role>,
    queues: Vec<Option<DeviceQueue>>,
    /// The chain of statistics that the device keeps until the host asks again.
    kept: Option<u16>,
    events: Option<Arc<dyn DeviceEvents>>,
    /// The target that the driver knows of.
    told: u32,
    malformed: Offences,
}

/// What is kept of a balloon.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    target: u32,
    actual: u32,
}

impl Inflatable {
    pub(crate) fn new(
        config: &BalloonConfig,
        handle: &Balloon,
        epoll: &Arc<Epoll>,
    ) -> Result<Self> {
        let optional = [
            (config.statistics, STATS_VQ),
            (config.reporting, REPORTING),
            (config.deflate_on_oom, DEFLATE_ON_OOM),
        ];
        let offered = optional
            .iter()
            .filter(|(on, _)| *on)
            .fold(QUEUE_FEATURES, |all, (_, bit)| all | 1 << bit);
        epoll
            .add(&handle.shared.changed, HANDLE, EventFlags::IN)
            .map_err(Error::host("watch a balloon's target"))?;
        let roles = roles(offered);
        // The device's thread may be confined when it wants to know.
        let _ = page_size();
        Ok(Self {
            epoll: Arc::clone(epoll),
            shared: Arc::clone(&handle.shared),
            offered,
            queues: roles.iter().map(|_| None).collect(),
            roles,
            kept: None,
            events: None,
            told: 0,
            malformed: Offences::default(),
        })
    }

    /// Serves a queue; `true` when there is more.
    fn serve(&mut self, index: usize) -> std::result::Result<bool, QueueError> {
        let (Some(role), Some(Some(running))) =
            (self.roles.get(index).copied(), self.queues.get_mut(index))
        else {
            return Ok(false);
        };
        let memory = Arc::clone(&running.memory);
        for _ in 0..BUDGET {
            let Some(chain) = running.queue.next(&memory)? else {
                return Ok(false);
            };
            let head = chain.head_index();
            let mut long = false;
            let done = match role {
                Role::Reporting => self.shared.free(&memory, chain).map(|()| true),
                _ => Chain::parse(&memory, chain).and_then(|chain| {
                    long = chain.readable_len() > LONG;
                    match role {
                        Role::Inflate => inflate(&memory, &chain, &self.malformed).map(|()| true),
                        Role::Deflate => Ok(true),
                        _ => self.shared.hear(&chain).map(|()| false),
                    }
                }),
            };
            match done {
                Ok(true) => complete_and_notify(&mut running.queue, &memory, head, 0)?,
                // Only one is kept: a driver that offers more has them all back.
                Ok(false) => {
                    if let Some(earlier) = self.kept.replace(head) {
                        complete_and_notify(&mut running.queue, &memory, earlier, 0)?;
                    }
                }
                Err(error) => {
                    running.queue.fault();
                    complain(&self.malformed, &error.to_string());
                    return Ok(false);
                }
            }
            if long {
                // Somebody may want a turn before all others are taken.
                return Ok(true);
            }
        }
        Ok(true)
    }

    /// Gives the chain of statistics back: the driver fills it anew.
    fn ask(&mut self) -> std::result::Result<(), QueueError> {
        let index = self.roles.iter().position(|role| *role == Role::Statistics);
        let running = index.and_then(|index| self.queues[index].as_mut());
        let Some(running) = running else {
            return Ok(());
        };
        if !self.shared.numbers().ask {
            return Ok(());
        }
        if let Some(head) = self.kept.take() {
            self.shared.numbers().ask = false;
            let memory = Arc::clone(&running.memory);
            complete_and_notify(&mut running.queue, &memory, head, 0)?;
        }
        Ok(())
    }

    fn tell_target(&mut self) {
        let target = self.shared.numbers().target;
        if let (true, Some(events)) = (target != self.told, &self.events) {
            self.told = target;
            events.config_changed();
        }
    }
}

impl Shared {
    /// Takes the statistics in.
    fn hear(&self, chain: &Chain<'_>) -> std::result::Result<(), ChainError> {
        let mut bytes = vec![0; chain.readable_len().min(MAX_BYTES)];
        pieces::copy_to(&chain.readable, &mut bytes).ok_or(ChainError::Short("statistics"))?;
        if !bytes.is_empty() {
            self.numbers().stats = Some(BalloonStats::parse(&bytes));
        }
        Ok(())
    }

    /// Takes the free pages that a chain reports.
    fn free(
        &self,
        memory: &GuestMemory,
        chain: virtio_queue::DescriptorChain<&GuestMemory>,
    ) -> std::result::Result<(), ChainError> {
        // Nothing is taken before all of it is known to make sense.
        Chain::parse(memory, chain.clone())?;
        for descriptor in chain.writable() {
            let length = u64::from(descriptor.len());
            // Pages that the host cannot take back stay where they are.
            let given = release(memory, descriptor.addr(), length).unwrap_or(0);
            self.numbers().reported += given;
        }
        Ok(())
    }
}

/// Takes the pages whose numbers are in `chain`.
fn inflate(
    memory: &GuestMemory,
    chain: &Chain<'_>,
    malformed: &Offences,
) -> std::result::Result<(), ChainError> {
    let length = chain.readable_len();
    if length > MAX_NUMBERS {
        return Err(ChainError::TooLong);
    }
    let mut bytes = vec![0; length / 4 * 4];
    pieces::copy_to(&chain.readable, &mut bytes).ok_or(ChainError::Short("page numbers"))?;
    let mut numbers: Vec<u32> = bytes
        .chunks_exact(4)
        .map(|number| u32::from_le_bytes([number[0], number[1], number[2], number[3]]))
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    for run in numbers.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
        let start = GuestAddress(u64::from(run[0]) * PAGE);
        if release(memory, start, run.len() as u64 * PAGE).is_err() {
            complain(malformed, "pages that cannot be taken");
        }
    }
    Ok(())
}

/// Pages that the host wants, and that the guest has given (§5.5.4).
fn config_space(shared: &Shared) -> Vec<u8> {
    let numbers = shared.numbers();
    let mut space = numbers.target.to_le_bytes().to_vec();
    space.extend(numbers.actual.to_le_bytes());
    space
}

fn complain(malformed: &Offences, what: &str) {
    if let Some(total) = malformed.count() {
        log::warn!(total; "balloon: {what}");
    }
}

/// The queues of a balloon with these features.
fn roles(features: u64) -> Vec<Role> {
    let has = |bit: u32| features & 1 << bit != 0;
    let mut roles = vec![Role::Inflate, Role::Deflate];
    if has(STATS_VQ) {
        roles.push(Role::Statistics);
    }
    if has(REPORTING) {
        roles.push(Role::Reporting);
    }
    roles
}

impl Driven for Inflatable {
    fn kind(&self) -> DeviceKind {
        DeviceKind::BALLOON
    }

    fn features(&self) -> u64 {
        self.offered
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; self.queues.len()]
    }

    fn config(&self) -> Vec<u8> {
        config_space(&self.shared)
    }

    fn config_reader(&self) -> ConfigReader {
        let shared = Arc::clone(&self.shared);
        Box::new(move || config_space(&shared))
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        if let (4, Ok(actual)) = (offset, <[u8; 4]>::try_from(data)) {
            self.shared.numbers().actual = u32::from_le_bytes(actual);
        }
    }

    fn negotiated(&mut self, features: u64) {
        self.roles = roles(features);
    }

    fn attach(&mut self, events: Option<Arc<dyn DeviceEvents>>) {
        self.events = events;
        // The driver reads the target when it begins.
        self.told = self.shared.numbers().target;
    }

    fn start(&mut self, index: usize, queue: DeviceQueue) -> io::Result<()> {
        let token = u64::try_from(index).map_err(io::Error::other)?;
        self.epoll.add(&queue.kick, token, EventFlags::IN)?;
        self.queues[index] = Some(queue);
        Ok(())
    }

    fn stop(&mut self, index: usize) -> Option<DeviceQueue> {
        let mut queue = self.queues.get_mut(index)?.take()?;
        // It was registered when it started; if that is gone, so is the wish.
        let _ = self.epoll.remove(&queue.kick);
        let keeps = self.roles.get(index) == Some(&Role::Statistics);
        if keeps && self.kept.take().is_some() {
            // Whoever serves the queue next keeps the chain.
            queue.queue.unpop(1);
        }
        Some(queue)
    }

    fn reset(&mut self) {
        self.kept = None;
        self.roles = roles(self.offered);
        self.shared.numbers().actual = 0;
    }

    fn handle(&mut self, _readiness: Readiness) {
        // A kick, or the host's hand: `proceed` sees what there is to do.
    }

    fn proceed(&mut self) -> bool {
        self.tell_target();
        let mut more = false;
        for index in 0..self.queues.len() {
            more |= self.serve(index).unwrap_or_else(|error| {
                complain(&self.malformed, &error.to_string());
                false
            });
        }
        if let Err(error) = self.ask() {
            complain(&self.malformed, &error.to_string());
        }
        more
    }

    fn save(&mut self) -> std::result::Result<DeviceState, StateError> {
        let numbers = self.shared.numbers();
        let saved = Saved {
            target: numbers.target,
            actual: numbers.actual,
        };
        DeviceState::new(self.kind(), 1, &saved)
    }

    fn restore(&mut self, state: &DeviceState) -> std::result::Result<(), StateError> {
        let saved: Saved = state.read(self.kind(), 1)?;
        let mut numbers = self.shared.numbers();
        (numbers.target, numbers.actual) = (saved.target, saved.actual);
        Ok(())
    }
}
