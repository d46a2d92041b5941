//! The macro that makes tests of the cases.

/// Makes one `#[tokio::test]` of each case, for the subject that the given
/// function returns; see [`conformance`](crate::conformance).
#[macro_export]
macro_rules! conformance_suite {
    ($subject:path) => {
        $crate::conformance_suite! { @cases $subject;
            a_machine_boots_and_is_accounted_for,
            a_machine_starts_once,
            a_machine_that_never_started_can_be_stopped,
            everybody_who_waits_is_told,
            stop_may_be_repeated,
            a_stream_carries_much_both_ways,
            a_port_where_nobody_listens_is_refused,
            many_streams_at_once_are_kept_apart,
            a_guest_that_ends_itself_is_reported,
            a_panic_is_reported_with_its_message,
            a_monitor_killed_from_outside_is_a_crash,
            an_awaited_end_that_does_not_come_is_a_kill,
            a_paused_guest_stands_still,
            shared_directories_are_read_by_the_guest,
            a_disk_is_read_and_written_by_the_guest,
            a_disk_that_is_attached_is_found_and_goes_again,
            a_nic_that_is_attached_is_found_and_goes_again,
            a_disk_that_is_written_belongs_to_one_machine,
            a_machine_grows_and_shrinks,
            a_console_carries_words_both_ways,
            a_balloon_takes_memory_and_gives_it_back,
            a_backend_that_cannot_work_says_why,
            a_description_that_makes_no_machine_is_refused,
            a_file_that_is_no_kernel_is_refused,
            a_missing_initramfs_is_refused,
            a_dropped_machine_leaves_nothing,
            a_dropped_create_leaves_nothing,
        }
    };
    (@cases $subject:path; $($case:ident),* $(,)?) => {
        $(
            #[::tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                match $subject() {
                    Ok(subject) => $crate::conformance::$case(&subject).await,
                    Err(reason) => eprintln!("skipped: {reason}"),
                }
            }
        )*
    };
}
