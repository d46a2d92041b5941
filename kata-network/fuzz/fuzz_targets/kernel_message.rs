//! What the kernel tells of a network namespace.
#![no_main]

use std::sync::Once;

use libfuzzer_sys::fuzz_target;

static HOOK: Once = Once::new();

fuzz_target!(|bytes: &[u8]| {
    // The netlink crate panics on some messages, which is caught where they are
    // read: libFuzzer's own hook would end the program before that.
    HOOK.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    kata_network::testing::read_kernel_message(bytes);
});
