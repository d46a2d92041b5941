//! The kernel's sources, as the distribution packs them.

use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use super::hex;
use crate::apt::{self, Package};
use crate::progress::{Progress, Report};
use crate::{Error, tool};

/// Where the sources come from.
#[derive(Clone, Debug)]
enum Origin {
    Archive(PathBuf),
    Package(Package),
}

/// Sources of one version.
#[derive(Clone, Debug)]
pub(super) struct Sources {
    origin: Origin,
    pub(super) version: String,
}

/// The meta-package that leads to the distribution's own sources.
const PACKAGE: &str = "linux-source";

impl Sources {
    /// The archive that is named, or the distribution's package.
    pub(super) fn find(archive: Option<&Path>) -> Result<Self, Error> {
        if let Some(path) = archive {
            let bytes = std::fs::read(path).map_err(Error::read(path))?;
            let version = hex(&Sha256::digest(&bytes))[..16].to_owned();
            return Ok(Self {
                origin: Origin::Archive(path.to_owned()),
                version,
            });
        }
        let no_package = || Error::NoPackage {
            names: vec![PACKAGE.into()],
        };
        let meta = apt::show(PACKAGE)?.ok_or_else(no_package)?;
        let concrete = meta
            .depends
            .iter()
            .find(|name| name.starts_with("linux-source-"));
        let concrete = concrete.map(|name| apt::show(name)).transpose()?.flatten();
        let package = concrete.unwrap_or(meta);
        Ok(Self {
            version: package.version.clone(),
            origin: Origin::Package(package),
        })
    }

    /// Unpacks the sources below `directory` and gives the tree's root.
    pub(super) fn unpack(&self, directory: &Path, report: Report<'_>) -> Result<PathBuf, Error> {
        let tree = directory.join("linux");
        std::fs::create_dir(&tree).map_err(Error::write(&tree))?;
        match &self.origin {
            Origin::Archive(archive) => untar(archive, &tree, report)?,
            Origin::Package(package) => {
                let step = format!("fetching {} {}", package.name, package.version);
                report(Progress::Step(step));
                let unpacked = directory.join("package");
                std::fs::create_dir(&unpacked).map_err(Error::write(&unpacked))?;
                let file = apt::download(package, &unpacked)?;
                apt::unpack(&file, &unpacked)?;
                let archive = archive_below(&unpacked.join("usr/src"))?.ok_or_else(|| {
                    let package = package.name.clone();
                    Error::PackageWithout {
                        package,
                        what: "archive in /usr/src".into(),
                    }
                })?;
                untar(&archive, &tree, report)?;
                std::fs::remove_dir_all(&unpacked).map_err(Error::write(&unpacked))?;
            }
        }
        Ok(tree)
    }
}

fn untar(archive: &Path, tree: &Path, report: Report<'_>) -> Result<(), Error> {
    report(Progress::Step("unpacking the kernel's sources".into()));
    let mut command = Command::new("tar");
    command
        .arg("--extract")
        .arg("--strip-components=1")
        .arg("--file")
        .arg(archive);
    command.arg("--directory").arg(tree);
    tool::output(&mut command, "tar xz-utils bzip2").map(drop)
}

/// Debian has the archive in this directory, Ubuntu one further down.
fn archive_below(directory: &Path) -> Result<Option<PathBuf>, Error> {
    let mut further = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(Error::read(directory))? {
        let path = entry.map_err(Error::read(directory))?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name.starts_with("linux-source-") && name.contains(".tar.") {
            return Ok(Some(path));
        }
        if path.is_dir() && !path.is_symlink() && name.starts_with("linux-source-") {
            further.push(path);
        }
    }
    further
        .iter()
        .find_map(|path| archive_below(path).transpose())
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_found_where_either_distribution_puts_it() {
        for place in [
            "linux-source-6.1.tar.xz",
            "linux-source-6.8/linux-source-6.8.tar.bz2",
        ] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join(place);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, b"").unwrap();
            assert_eq!(archive_below(directory.path()).unwrap(), Some(path));
        }
    }

    #[test]
    fn an_archive_is_unpacked_without_its_first_directory() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("linux-6.1/kernel")).unwrap();
        std::fs::write(root.path().join("linux-6.1/kernel/file"), b"x").unwrap();
        let archive = root.path().join("linux.tar");
        let mut command = Command::new("tar");
        command
            .arg("-C")
            .arg(root.path())
            .arg("-cf")
            .arg(&archive)
            .arg("linux-6.1");
        tool::output(&mut command, "tar").unwrap();
        let sources = Sources::find(Some(&archive)).unwrap();
        let tree = sources.unpack(root.path(), &|_| {}).unwrap();
        assert_eq!(std::fs::read(tree.join("kernel/file")).unwrap(), b"x");
        assert_eq!(sources.version.len(), 16);
    }
}
