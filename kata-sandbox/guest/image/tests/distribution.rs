//! Images from the distribution's own kernel package, and from the small kernel.
//!
//! `make test` fills the cache and sets `KATA_CACHE` and `KATA_AGENT`; without
//! them these tests are skipped, as they would fetch packages.
#![expect(clippy::unwrap_used, reason = "a test says what it expects")]

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use kata_image::{Cache, ImageBuilder, KernelSource, Manifest, verify};

/// The cache and the agent, or `None`, aloud.
fn workshop() -> Option<(Cache, PathBuf)> {
    let setting = |name: &str| std::env::var_os(name).map(PathBuf::from);
    match (setting("KATA_CACHE"), setting("KATA_AGENT")) {
        (Some(cache), Some(agent)) => Some((Cache::open(cache).unwrap(), agent)),
        _ => {
            eprintln!("skipped: KATA_CACHE and KATA_AGENT are not set; 'make test' sets them");
            None
        }
    }
}

fn build(source: KernelSource, to: &Path) -> Option<Manifest> {
    let (cache, agent) = workshop()?;
    let steps = RefCell::new(vec![]);
    let manifest = ImageBuilder::new(agent)
        .kernel(source)
        .build(to, &cache, &|progress| {
            steps.borrow_mut().push(progress.to_string());
        })
        .unwrap();
    assert_eq!(verify(to).unwrap(), manifest);
    assert!(!steps.into_inner().is_empty());
    Some(manifest)
}

#[test]
fn the_distributions_package_gives_the_same_image_twice() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    let package = || KernelSource::Package { name: None };
    let Some(one) = build(package(), &at("one")) else {
        return;
    };
    let other = build(package(), &at("other")).unwrap();
    assert_eq!(one, other, "checksums included");
    assert!(
        one.provenance
            .keys()
            .any(|package| package.starts_with("linux-image-"))
    );
    // A built-in driver is in no list; one that is a module comes after its bus.
    let place = |name: &str| one.modules.iter().position(|module| module == name);
    if let (Some(bus), Some(driver)) = (place("virtio"), place("virtio_net")) {
        assert!(bus < driver, "{:?}", one.modules);
    }
}

#[test]
fn the_small_kernel_has_no_modules_and_finds_mmio_devices() {
    let root = tempfile::tempdir().unwrap();
    let Some(image) = build(KernelSource::Minimal, root.path().join("image").as_path()) else {
        return;
    };
    assert!(image.modules.is_empty());
    assert!(
        image.kernel_release.ends_with("-kata"),
        "{}",
        image.kernel_release
    );
    assert!(image.virtio_mmio_command_line || image.architecture != "x86_64");
}
