//! What must not work, and what must not be left behind.

use std::time::Duration;

use tokio::time::timeout;

use super::machine::{Machine, Place, chain, must_fail};
use super::subject::Subject;
use crate::config::{MemorySize, VmConfig};
use crate::error::Error;
use crate::probe::Severity;

/// A backend that cannot work says so in its probe, with a remedy, and makes
/// nothing.
///
/// # Panics
/// When the backend does otherwise.
pub async fn a_backend_that_cannot_work_says_why(subject: &Subject) {
    let Some(broken) = &subject.broken else {
        eprintln!("skipped: no broken set-up of this backend was given");
        return;
    };
    let probe = broken.probe().await;
    assert!(!probe.is_usable(), "{probe:?}");
    let blocker = probe
        .findings
        .iter()
        .find(|finding| finding.severity == Severity::Blocker);
    let blocker = blocker.expect("what blocks is a finding");
    assert!(blocker.remedy.is_some(), "{blocker}");
    let place = Place::new();
    let error = must_fail(broken.create(place.config(subject)).await);
    assert!(matches!(error, Error::NotCapable { .. }), "{error:?}");
    place.assert_clean(subject.patience).await;
}

/// Numbers and names that make no machine are refused by field.
///
/// # Panics
/// When the backend does otherwise.
pub async fn a_description_that_makes_no_machine_is_refused(subject: &Subject) {
    let wrong: [fn(&mut VmConfig); 5] = [
        |config| config.size.vcpus = 0,
        |config| config.size.max_vcpus = 0,
        |config| config.size.memory = MemorySize::bytes(1),
        |config| config.size.max_memory = MemorySize::bytes(1),
        |config| config.id.clear(),
    ];
    for spoil in wrong {
        let place = Place::new();
        let mut config = place.config(subject);
        spoil(&mut config);
        let error = must_fail(subject.hypervisor.create(config).await);
        assert!(matches!(error, Error::InvalidConfig { .. }), "{error:?}");
        place.assert_clean(subject.patience).await;
    }
}

/// Neither text nor nothing nor half a kernel is a kernel, and the error names
/// the file.
///
/// # Panics
/// When the backend does otherwise.
pub async fn a_file_that_is_no_kernel_is_refused(subject: &Subject) {
    let files = Place::new();
    let (text, half) = (files.directory.join("text"), files.directory.join("half"));
    std::fs::write(&text, "#!/bin/sh\nexit 0\n").expect("the temporary directory is writable");
    let kernel = std::fs::read(&subject.guest.kernel).expect("the kernel can be read");
    std::fs::write(&half, &kernel[..kernel.len() / 2]).expect("there is room for half a kernel");
    for kernel in [files.directory.join("none"), text, half] {
        let place = Place::new();
        let mut config = place.config(subject);
        config.kernel.clone_from(&kernel);
        let error = must_fail(subject.hypervisor.create(config).await);
        let text = chain(&error);
        assert!(
            matches!(error, Error::File { what: "kernel", .. }),
            "{text}"
        );
        assert!(text.contains(&kernel.display().to_string()), "{text}");
        place.assert_clean(subject.patience).await;
    }
}

/// An initramfs that is not there is named.
///
/// # Panics
/// When the backend does otherwise.
pub async fn a_missing_initramfs_is_refused(subject: &Subject) {
    let place = Place::new();
    let mut config = place.config(subject);
    config.initramfs = Some("/nonexistent/initramfs".into());
    let error = must_fail(subject.hypervisor.create(config).await);
    assert!(
        matches!(
            error,
            Error::File {
                what: "initramfs",
                ..
            }
        ),
        "{error:?}"
    );
    place.assert_clean(subject.patience).await;
}

/// A machine that is dropped, running or not, leaves nothing.
///
/// # Panics
/// When the backend does otherwise.
pub async fn a_dropped_machine_leaves_nothing(subject: &Subject) {
    Machine::create(subject).await.assert_clean().await;
    Machine::boot(subject).await.assert_clean().await;
}

/// A creation that is given up, however far it came, leaves nothing.
///
/// # Panics
/// When the backend does otherwise.
pub async fn a_dropped_create_leaves_nothing(subject: &Subject) {
    for milliseconds in [0, 1, 2, 5, 10, 20, 50, 100] {
        let place = Place::new();
        let creation = subject.hypervisor.create(place.config(subject));
        let made = timeout(Duration::from_millis(milliseconds), creation).await;
        drop(made);
        place.assert_clean(subject.patience).await;
    }
}
