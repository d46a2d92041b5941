//! A kernel installed below a root directory: this machine's own, or that of an
//! unpacked package.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use super::Found;
use crate::Error;

/// The kernel of this release below `root`, or the newest of those that can be
/// read.
pub(super) fn find(root: &Path, release: Option<&str>) -> Result<Found, Error> {
    let boot = root.join("boot");
    let mut releases = match release {
        Some(release) => vec![release.to_owned()],
        None => releases(&boot),
    };
    releases.sort_by(|one, other| compare(other, one));
    // Ubuntu lets only root read its kernels.
    let usable = |release: &String| File::open(boot.join(format!("vmlinuz-{release}"))).is_ok();
    let release = match release {
        Some(_) => releases.pop(),
        None => releases.into_iter().find(usable),
    };
    let release = release.ok_or(Error::NoInstalledKernel {
        directory: boot.clone(),
    })?;
    let kernel = boot.join(format!("vmlinuz-{release}"));
    File::open(&kernel).map_err(Error::read(&kernel))?;
    let modules = ["lib/modules", "usr/lib/modules"]
        .map(|place| root.join(place).join(&release))
        .into_iter()
        .find(|directory| directory.is_dir());
    let provenance = BTreeMap::from([("kernel".into(), format!("vmlinuz-{release}"))]);
    Ok(Found {
        kernel,
        modules,
        family: distribution(),
        provenance,
    })
}

fn releases(boot: &Path) -> Vec<String> {
    let entries = fs::read_dir(boot).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter_map(|name| name.strip_prefix("vmlinuz-").map(Into::into))
        .collect()
}

/// What the distribution calls itself, in one word.
fn distribution() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let id = text.lines().find_map(|line| line.strip_prefix("ID="));
    id.map_or("linux", |id| id.trim_matches('"')).to_owned()
}

/// Compares releases the way people read them: 6.10 is newer than 6.9.
pub(super) fn compare(one: &str, other: &str) -> Ordering {
    fn key(release: &str) -> Vec<(u64, &str)> {
        let words = release.split(['.', '-', '+', '~', '_', ':']);
        words
            .map(|word| (word.parse().unwrap_or(0), word))
            .collect()
    }
    key(one).cmp(&key(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(releases: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("boot")).unwrap();
        for release in releases {
            fs::write(root.path().join(format!("boot/vmlinuz-{release}")), b"").unwrap();
            fs::create_dir_all(root.path().join("lib/modules").join(release)).unwrap();
        }
        root
    }

    #[test]
    fn the_newest_kernel_is_taken() {
        let root = root(&["6.9.0-1-cloud", "6.10.0-1-cloud", "5.19.0-50-cloud"]);
        let found = find(root.path(), None).unwrap();
        assert_eq!(
            found.kernel,
            root.path().join("boot/vmlinuz-6.10.0-1-cloud")
        );
        assert_eq!(
            found.modules,
            Some(root.path().join("lib/modules/6.10.0-1-cloud"))
        );
    }

    #[test]
    fn a_release_that_is_named_is_taken() {
        let root = root(&["6.9.0", "6.10.0"]);
        let found = find(root.path(), Some("6.9.0")).unwrap();
        assert_eq!(found.kernel, root.path().join("boot/vmlinuz-6.9.0"));
    }

    #[test]
    fn no_kernel_names_the_directory_and_the_remedy() {
        let root = root(&[]);
        let error = find(root.path(), None).unwrap_err().to_string();
        assert!(
            error.contains("/boot") && error.contains("--kernel-package"),
            "{error}"
        );
    }

    #[test]
    fn a_release_that_is_not_there_is_named() {
        let error = find(root(&["6.9.0"]).path(), Some("7.0"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("vmlinuz-7.0"), "{error}");
    }
}
