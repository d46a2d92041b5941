//! What fuzzers drive: readers of what plugins and the kernel answer.

use serde_json::Value;

use crate::{cni, scan};

/// Reads a message of the kernel's routing, as a scan of a namespace does.
pub fn read_kernel_message(bytes: &[u8]) {
    scan::hostile::read(bytes);
}

/// Reads a plugin's result, and writes it for another plugin.
///
/// # Panics
/// When what was written reads otherwise.
pub fn read_plugin_result(bytes: &[u8]) {
    if let Ok(value) = serde_json::from_slice::<Value>(bytes) {
        cni::read_again(&value);
    }
}

/// Reads a network configuration, as it is in a file.
pub fn read_configuration(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        drop(cni::Cni::from_json(text));
    }
}
