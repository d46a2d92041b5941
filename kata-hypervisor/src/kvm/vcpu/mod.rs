//! Virtual processors: one plain thread each.
//!
//! ```text
//!   held ──start──▶ running ◀──resume── ──pause──▶ held
//!     └────────────────┴─── guest's doing, kill, fault ──▶ over
//! ```
//!
//! A thread blocks every signal, and lets one of them through only while the
//! guest runs (`KVM_SET_SIGNAL_MASK`): it ends the run, is never delivered, and
//! needs no handler in a program that is not ours.

mod control;
mod exit;
mod fault;
mod kick;
mod thread;

pub(super) use control::{Control, Thread};
pub(super) use thread::{Vcpus, Wiring};
