//! Shared directories.

use super::guest::Guest;
use super::machine::{Machine, Place, chain};
use super::subject::Subject;
use crate::error::Error;
use kata_devices::fs::{Access, FsConfig, SharedTree};

/// What the host shares the guest reads: through each of two file systems, one
/// shared before the machine started, one after.
///
/// # Panics
/// When the backend does otherwise.
pub async fn shared_directories_are_read_by_the_guest(subject: &Subject) {
    let (place, host) = (Place::new(), Place::new());
    std::fs::write(host.directory.join("file"), "shared").expect("the directory is writable");
    let trees = [(); 2].map(|()| SharedTree::new().expect("a tree needs nothing"));
    let share = |tree: &SharedTree| {
        let shared = tree.share("d", &host.directory, Access::ReadOnly);
        shared.expect("a directory can be shared");
    };
    share(&trees[0]);
    let mut config = place.config(subject);
    for (tag, tree) in ["one", "two"].into_iter().zip(&trees) {
        let (tag, tree) = (tag.to_owned(), tree.clone());
        config.devices.filesystems.push(FsConfig { tag, tree });
    }
    let machine = match Machine::of(subject, place, config).await {
        Ok(machine) => machine.up().await,
        Err(Error::Unsupported { .. }) => {
            eprintln!("skipped: this backend shares no directories");
            return;
        }
        Err(error) => panic!("create: {}", chain(&error)),
    };
    share(&trees[1]);
    for tag in ["one", "two"] {
        let file = machine.asked(Guest::FILES, &format!("{tag} d/file")).await;
        assert_eq!(file, "shared");
    }
    machine.assert_clean().await;
}
