//! The kernel's sources, as the distribution packs them.

use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use super::hex;
use crate::apt::{self, Package};
use crate::progress::{Progress, Report};
use crate::{Error, tool};

/// Where sources are asked for.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    /// A tar archive.
    Archive(PathBuf),
    /// A package of this name.
    Package(String),
}

/// Sources of one version.
#[derive(Clone, Debug)]
pub(super) struct Sources {
    place: Place,
    pub(super) version: String,
}

/// Where they are.
#[derive(Clone, Debug)]
enum Place {
    Archive(PathBuf),
    Package(Package),
}

/// The meta-package that leads to the distribution's own sources.
pub(super) const PACKAGE: &str = "linux-source";

impl Sources {
    /// Finds out which version there is.
    pub(super) fn find(origin: &Origin) -> Result<Self, Error> {
        match origin {
            Origin::Archive(path) => {
                let bytes = std::fs::read(path).map_err(Error::read(path))?;
                let version = hex(&Sha256::digest(&bytes))[..16].to_owned();
                Ok(Self {
                    place: Place::Archive(path.clone()),
                    version,
                })
            }
            Origin::Package(name) => {
                let no_package = || Error::NoPackage {
                    names: vec![name.clone()],
                };
                let asked = apt::show(name)?.ok_or_else(no_package)?;
                let next = asked
                    .depends
                    .iter()
                    .find(|name| name.starts_with("linux-source-"));
                let next = next.map(|name| apt::show(name)).transpose()?.flatten();
                let package = next.unwrap_or(asked);
                Ok(Self {
                    version: package.version.clone(),
                    place: Place::Package(package),
                })
            }
        }
    }

    /// Unpacks the sources below `directory` and gives the tree's root.
    pub(super) fn unpack(&self, directory: &Path, report: Report<'_>) -> Result<PathBuf, Error> {
        let tree = directory.join("linux");
        std::fs::create_dir(&tree).map_err(Error::write(&tree))?;
        match &self.place {
            Place::Archive(archive) => untar(archive, &tree, report)?,
            Place::Package(package) => {
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
        let sources = Sources::find(&Origin::Archive(archive)).unwrap();
        let tree = sources.unpack(root.path(), &|_| {}).unwrap();
        assert_eq!(std::fs::read(tree.join("kernel/file")).unwrap(), b"x");
        assert_eq!(sources.version.len(), 16);
    }
}
