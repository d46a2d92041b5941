//! What every backend must do, as tests.
//!
//! The cases are public functions over any [`Hypervisor`](crate::Hypervisor)
//! and a guest that can echo, panic and end itself; [`suite!`](crate::conformance_suite) makes a test of
//! each. A backend's own test file is a few lines:
//!
//! ```no_run
//! use kata_hypervisor::conformance::{Guest, Subject};
//! use kata_hypervisor::qemu::Qemu;
//!
//! fn subject() -> Result<Subject, String> {
//!     let guest = Guest::from_environment()?;
//!     Ok(Subject::new(Qemu::new(), guest).broken(Qemu::new().binary("/nonexistent")))
//! }
//!
//! kata_hypervisor::conformance_suite!(subject);
//! # fn main() {}
//! ```
//!
//! An `Err` from `subject` skips each case aloud with that reason. Cases run at
//! the same time as each other: none looks at more of the host than it made.

mod ballooning;
mod consoles;
mod dialling;
mod disks;
mod endings;
mod failures;
mod guest;
mod initramfs;
mod lifecycle;
mod machine;
mod nics;
mod pausing;
mod resizing;
mod sharing;
mod subject;
mod suite;
mod traces;

pub use ballooning::a_balloon_takes_memory_and_gives_it_back;
pub use consoles::a_console_carries_words_both_ways;
pub use dialling::{
    a_port_where_nobody_listens_is_refused, a_stream_carries_much_both_ways,
    many_streams_at_once_are_kept_apart,
};
pub use disks::{
    a_disk_is_read_and_written_by_the_guest, a_disk_that_is_attached_is_found_and_goes_again,
    a_disk_that_is_written_belongs_to_one_machine,
};
pub use endings::{
    a_guest_that_ends_itself_is_reported, a_guest_that_switches_off_is_told_apart,
    a_monitor_killed_from_outside_is_a_crash, a_panic_is_reported_with_its_message,
    an_awaited_end_that_does_not_come_is_a_kill,
};
pub use failures::{
    a_backend_that_cannot_work_says_why, a_description_that_makes_no_machine_is_refused,
    a_dropped_create_leaves_nothing, a_dropped_machine_leaves_nothing,
    a_file_that_is_no_kernel_is_refused, a_missing_initramfs_is_refused,
};
pub use guest::Guest;
pub use lifecycle::{
    a_machine_boots_and_is_accounted_for, a_machine_starts_once,
    a_machine_that_never_started_can_be_stopped, everybody_who_waits_is_told, stop_may_be_repeated,
};
pub use machine::Machine;
pub use nics::a_nic_that_is_attached_is_found_and_goes_again;
pub use pausing::a_paused_guest_stands_still;
pub use resizing::a_machine_grows_and_shrinks;
pub use sharing::shared_directories_are_read_by_the_guest;
pub use subject::Subject;
