//! Debian packages, fetched and unpacked without installing them. Needs no
//! root; apt checks what it fetches.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Architecture, Error, tool};

/// A package that apt could fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    /// Its name, with the architecture if that is a foreign one.
    pub(crate) name: String,
    /// Its version.
    pub(crate) version: String,
    /// The names of what it depends on; every alternative counts.
    pub(crate) depends: Vec<String>,
}

impl Package {
    /// A directory name that no other package and version has.
    pub(crate) fn directory(&self, architecture: Architecture) -> String {
        let name = self.name.split(':').next().unwrap_or_default();
        format!(
            "{name}_{}_{}",
            self.version.replace(':', "%3a"),
            architecture.debian()
        )
    }

    fn parse(name: &str, stanza: &str) -> Option<Self> {
        let field = |wanted: &str| {
            stanza
                .lines()
                .find_map(|line| line.strip_prefix(wanted)?.strip_prefix(": "))
        };
        let depends = ["Depends", "Pre-Depends"].into_iter().filter_map(field);
        let depends = depends.flat_map(|list| list.split([',', '|']));
        let depends = depends.filter_map(|one| one.split_whitespace().next().map(Into::into));
        Some(Self {
            name: name.to_owned(),
            version: field("Version")?.to_owned(),
            depends: depends.collect(),
        })
    }
}

/// What follows a package's name: nothing for this machine's own architecture.
pub(crate) fn qualifier(architecture: Architecture) -> Result<String, Error> {
    let own = tool::output(Command::new("dpkg").arg("--print-architecture"), "dpkg")?;
    let wanted = architecture.debian();
    Ok(if own.trim() == wanted {
        String::new()
    } else {
        format!(":{wanted}")
    })
}

/// The version of a package that apt would install; `None` when it knows none.
pub(crate) fn show(name: &str) -> Result<Option<Package>, Error> {
    let mut command = Command::new("apt-cache");
    command.args(["show", "--no-all-versions", name]);
    match tool::output(&mut command, "apt") {
        Ok(text) => Ok(Package::parse(name, &text)),
        // apt-cache fails for a name it does not know.
        Err(Error::ToolFailed { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Fetches a package into `directory`.
pub(crate) fn download(package: &Package, directory: &Path) -> Result<PathBuf, Error> {
    let mut command = Command::new("apt-get");
    command.current_dir(directory).arg("download");
    command.arg(format!("{}={}", package.name, package.version));
    tool::output(&mut command, "apt")?;
    let entries = std::fs::read_dir(directory).map_err(Error::read(directory))?;
    let mut paths = entries.flatten().map(|entry| entry.path());
    paths
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .ok_or_else(|| Error::PackageWithout {
            package: package.name.clone(),
            what: "file to fetch".into(),
        })
}

/// Unpacks the files of a package into `directory`.
pub(crate) fn unpack(package: &Path, directory: &Path) -> Result<(), Error> {
    let mut command = Command::new("dpkg-deb");
    command.arg("--extract").arg(package).arg(directory);
    tool::output(&mut command, "dpkg").map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stanza_gives_version_and_dependencies() {
        let stanza = "Package: linux-image-virtual\nVersion: 6.8.0-1\nInstalled-Size: 9\n\
             Depends: linux-image-6.8.0-1-generic (>= 6.8), kmod | module-init-tools\n";
        let package = Package::parse("linux-image-virtual", stanza).unwrap();
        assert_eq!(package.version, "6.8.0-1");
        let expected = ["linux-image-6.8.0-1-generic", "kmod", "module-init-tools"];
        assert_eq!(package.depends, expected);
    }

    #[test]
    fn a_package_of_each_version_and_architecture_has_its_own_directory() {
        let package = Package::parse("x:arm64", "Version: 1:2-3\n").unwrap();
        assert_eq!(package.directory(Architecture::Aarch64), "x_1%3a2-3_arm64");
    }

    #[test]
    fn no_version_is_no_package() {
        assert_eq!(Package::parse("x", "Package: x\n"), None);
    }

    #[test]
    fn apt_does_not_know_a_name_that_nobody_has() {
        if Command::new("apt-cache").arg("--version").output().is_err() {
            eprintln!("skipped: apt is not installed");
            return;
        }
        assert_eq!(show("no-such-package-anywhere").unwrap(), None);
    }
}
