//! Network cards that wait for an interface of the host.
//!
//! A machine that takes no devices later has some ahead. Until the host says
//! what one is for, nobody is to see an interface that leads nowhere: its
//! driver lets go of it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::link::Link;

/// The driver of network cards, and all virtio devices.
const DRIVER: &str = "/sys/bus/virtio/drivers/virtio_net";
const DEVICES: &str = "/sys/bus/virtio/devices";
const INTERFACES: &str = "/sys/class/net";
/// The number of network cards (virtio 1.2, section 5).
const NETWORK_CARD: &str = "0x0001";

/// Hides the cards whose interfaces are not among `used`, by index.
pub(super) fn hide(links: &[Link], used: &[u32]) {
    for link in links.iter().filter(|link| !used.contains(&link.index)) {
        let device = Path::new(INTERFACES).join(&link.name).join("device");
        // Only what hangs on a card has a device.
        let Some(name) = device_name(&device) else {
            continue;
        };
        if let Err(error) = fs::write(Path::new(DRIVER).join("unbind"), &name) {
            log::debug!(interface = link.name.as_str(), error:%; "an idle card stays in sight");
        }
    }
}

/// Shows all cards that were hidden; answers whether there were any.
pub(super) fn show() -> io::Result<bool> {
    let entries = match fs::read_dir(DEVICES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        entries => entries?,
    };
    let mut found = false;
    for entry in entries {
        let path = entry?.path();
        if is_hidden(&path)
            && let Some(name) = path.file_name()
        {
            fs::write(Path::new(DRIVER).join("bind"), name.as_encoded_bytes())?;
            found = true;
        }
    }
    Ok(found)
}

/// Whether it is a network card without a driver.
fn is_hidden(device: &Path) -> bool {
    let kind = fs::read_to_string(device.join("device")).unwrap_or_default();
    kind.trim() == NETWORK_CARD && !device.join("driver").exists()
}

/// The name of a virtio device on its bus.
fn device_name(link: &Path) -> Option<String> {
    let device: PathBuf = fs::canonicalize(link).ok()?;
    let name = device.file_name()?.to_str()?;
    name.starts_with("virtio").then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_hidden_while_it_has_no_driver() {
        let directory = tempfile::tempdir().unwrap();
        let device = directory.path();
        assert!(!is_hidden(device));
        fs::write(device.join("device"), "0x0001\n").unwrap();
        assert!(is_hidden(device));
        fs::create_dir(device.join("driver")).unwrap();
        assert!(!is_hidden(device));
        fs::write(device.join("device"), "0x0002\n").unwrap();
        assert!(!is_hidden(device));
    }

    #[test]
    fn what_is_no_virtio_device_has_no_name_there() {
        assert_eq!(device_name(Path::new("/sys/class/net/lo")), None);
        assert_eq!(device_name(Path::new("/no/such")), None);
    }
}
