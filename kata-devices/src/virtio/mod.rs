//! What every virtio device is, and what carries it to a guest.
//!
//! A [`VirtioDevice`] knows queues, features and a configuration space, and
//! nothing of registers. A transport knows registers, and nothing of what the
//! device does: [`mmio::MmioTransport`] or
//! [`pci::PciTransport`] in this process, or a
//! [`vhost_user::Server`](crate::vhost_user::Server) for a monitor elsewhere.
//!
//! ```text
//!   vCPU exits ──▶ MmioTransport ──▶ Negotiation ──▶ VirtioDevice ──▶ thread on epoll
//!   ioeventfd ────────────────────────── kick ──────────────────────────▶ │
//!   irqfd ◀───────── Interrupt (one per queue) ◀──────────────────────────┘
//! ```
//!
//! # Life of a device (virtio 1.2 §3.1)
//! ```text
//!   reset ──DRIVER_OK──▶ active ──needs_reset──▶ broken
//!     ▲                    │  ▲                     │
//!     │                    ▼  │ resume              │
//!     │                  quiesced (per queue)       │
//!     └────────── status = 0 ◀──────────────────────┘
//! ```
//!
//! Guest-controlled: everything that a transport hands over, and the queues.

pub mod mmio;
pub mod pci;

mod chain;
mod device;
mod driven;
mod fair;
mod hosted;
mod kick;
mod negotiation;
mod queue;
mod queue_setup;
mod signals;
mod state;
mod status;

pub use device::{Activation, DeviceEvents, DeviceKind, DeviceQueue, VirtioDevice};
pub use driven::ThreadStart;
pub use kick::Kick;
pub use queue::{GuestMemory, Interrupt, QueueError, VirtQueue};
pub use state::{DeviceState, StateError, TransportState};

pub(crate) use chain::{Chain, ChainError};
pub(crate) use driven::{ConfigReader, Driven};
pub(crate) use hosted::Hosted;
#[cfg(any(test, feature = "testing"))]
pub(crate) use hosted::Step;
pub(crate) use queue::{MAX_SIZE, QUEUE_FEATURES, complete_and_notify};
