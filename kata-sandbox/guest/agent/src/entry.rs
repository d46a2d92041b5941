//! The C entry point, in place of Rust's own.
//!
//! Rust's start-up aborts when the standard file descriptors are closed and
//! `/dev/null` is not there yet, which is how a kernel without a console starts
//! pid 1. It also installs handlers that this program has no use for.
#![expect(
    unsafe_code,
    reason = "the entry point's symbol, and signal dispositions"
)]

/// Called by the C library.
#[unsafe(no_mangle)]
extern "C" fn main(_count: libc::c_int, _arguments: *const *const libc::c_char) -> libc::c_int {
    // SAFETY: no other thread exists; `SIG_IGN` runs no code in this process.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    super::run()
}
