//! Network devices that come later.

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::guest::Guest;
use super::machine::{Machine, Place, chain};
use super::subject::Subject;
use crate::error::Error;
use crate::nic::{NicBackend, NicConfig};

/// Network devices come and go while the machine runs, as many as it was said
/// at most; what is attached twice or was never there is refused.
///
/// # Panics
/// When the backend does otherwise.
pub async fn a_nic_that_is_attached_is_found_and_goes_again(subject: &Subject) {
    let place = Place::new();
    let mut config = place.config(subject);
    config.devices.spare_nics = 1;
    let machine = match Machine::of(subject, place, config).await {
        Ok(machine) => machine.up().await,
        Err(Error::Unsupported { .. }) => {
            assert!(!subject.hypervisor.offers().nics);
            eprintln!("skipped: this backend attaches no network devices");
            return;
        }
        Err(error) => panic!("create: {}", chain(&error)),
    };
    let nics = machine.nics().expect("room was asked for");
    assert!(machine.features().nics);
    for last in [7, 8] {
        let address = [2, 0, 0, 0, 0, last];
        let text = format!("02:00:00:00:00:{last:02x}");
        let (nic, _peer) = nic(address);
        nics.attach(nic.clone()).await.expect("attach");
        assert!(nics.attach(nic).await.is_err(), "it is there already");
        let (more, _more_peer) = self::nic([2, 0, 0, 0, 0, 99]);
        assert!(nics.attach(more).await.is_err(), "there is no room");
        let found = |answer: &str| answer.contains(&text);
        let seen = machine.asked_until(Guest::NICS, "", found).await;
        assert!(found(&seen), "{text} is not in {seen:?}");
        nics.detach(address).await.expect("detach");
        let seen = machine.asked(Guest::NICS, "").await;
        assert!(!found(&seen), "{text} is still in {seen:?}");
        assert!(nics.detach(address).await.is_err(), "it is gone already");
    }
    let (nobody, _peer) = nic([1, 0, 0, 0, 0, 1]);
    let error = nics.attach(nobody).await.expect_err("a group has no card");
    assert!(matches!(error, Error::InvalidConfig { .. }), "{error}");
    machine.assert_clean().await;
}

/// A device on a socket, and the other end of that.
fn nic(address: [u8; 6]) -> (NicConfig, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("sockets can be made");
    let backend = NicBackend::Stream(Arc::new(theirs.into()));
    (NicConfig::new(address, 1500, backend), ours)
}
