//! The distribution's kernel package, unpacked into the cache.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Found, installed};
use crate::apt::{self, Package};
use crate::progress::{Progress, Report};
use crate::publish::Draft;
use crate::{Architecture, Cache, Error};

/// Meta-packages lead to other meta-packages, but not far.
const DEPTH: usize = 4;

pub(super) fn find(
    name: Option<&str>,
    architecture: Architecture,
    cache: &Cache,
    report: Report<'_>,
) -> Result<Found, Error> {
    let names = match name {
        Some(name) => vec![name.to_owned()],
        None => preferred(architecture),
    };
    let suffix = apt::qualifier(architecture)?;
    let packages = match concrete(&names, &suffix)? {
        Some(packages) => packages,
        // Package lists come and go; what was unpacked once can still be used.
        None => {
            return newest_unpacked(name, cache, architecture)?.ok_or(Error::NoPackage {
                names: with_suffix(&names, &suffix),
            });
        }
    };
    let first = packages
        .first()
        .expect("concrete() gives at least one package");
    let directory = cache.packages().join(first.directory(architecture));
    if !directory.is_dir() {
        unpack(&packages, &directory, report)?;
    }
    let provenance = packages.iter().map(|package| {
        (
            package.name.trim_end_matches(&suffix).to_owned(),
            package.version.clone(),
        )
    });
    located(&directory, &first.name, provenance.collect())
}

/// The kernels that distributions make for virtual machines, then the others.
fn preferred(architecture: Architecture) -> Vec<String> {
    let debian = architecture.debian();
    vec![
        format!("linux-image-cloud-{debian}"),
        "linux-image-virtual".into(),
        format!("linux-image-{debian}"),
        "linux-image-generic".into(),
    ]
}

fn with_suffix(names: &[String], suffix: &str) -> Vec<String> {
    names.iter().map(|name| format!("{name}{suffix}")).collect()
}

/// The package that holds the kernel, first, and those that hold its modules.
/// `None` when apt knows none of the names.
fn concrete(names: &[String], suffix: &str) -> Result<Option<Vec<Package>>, Error> {
    for name in names {
        let Some(mut package) = apt::show(&format!("{name}{suffix}"))? else {
            continue;
        };
        for _ in 0..DEPTH {
            let next = package
                .depends
                .iter()
                .find(|name| name.starts_with("linux-image-"));
            let Some(next) = next else { break };
            let Some(found) = apt::show(&format!("{next}{suffix}"))? else {
                break;
            };
            package = found;
        }
        let parts = package
            .depends
            .iter()
            .filter(|name| name.starts_with("linux-modules-") || name.starts_with("linux-binary-"));
        let parts = parts.map(|name| apt::show(&format!("{name}{suffix}")));
        let mut packages = vec![package.clone()];
        for part in parts {
            packages.extend(part?);
        }
        return Ok(Some(packages));
    }
    Ok(None)
}

fn unpack(packages: &[Package], directory: &Path, report: Report<'_>) -> Result<(), Error> {
    let draft = Draft::begin(directory)?;
    for package in packages {
        report(Progress::Step(format!(
            "fetching {} {}",
            package.name, package.version
        )));
        let file = apt::download(package, draft.path())?;
        report(Progress::Step(format!("unpacking {}", package.name)));
        apt::unpack(&file, draft.path())?;
        std::fs::remove_file(&file).map_err(Error::write(&file))?;
    }
    draft.publish().map(drop)
}

fn located(
    directory: &Path,
    package: &str,
    provenance: BTreeMap<String, String>,
) -> Result<Found, Error> {
    let found = installed::find(directory, None).map_err(|_| Error::PackageWithout {
        package: package.to_owned(),
        what: "kernel in /boot".into(),
    })?;
    Ok(Found {
        provenance,
        ..found
    })
}

/// The newest package in the cache; only for the distribution's own choice,
/// because a name does not say which concrete package it once led to.
fn newest_unpacked(
    name: Option<&str>,
    cache: &Cache,
    architecture: Architecture,
) -> Result<Option<Found>, Error> {
    let suffix = format!("_{}", architecture.debian());
    let entries = std::fs::read_dir(cache.packages())
        .into_iter()
        .flatten()
        .flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<_> = names
        .filter(|entry| entry.starts_with("linux-image-") && entry.ends_with(&suffix))
        .filter(|entry| name.is_none_or(|name| entry.split('_').next() == Some(name)))
        .collect();
    names.sort_by(|one, other| installed::compare(one, other));
    let Some(newest) = names.pop() else {
        return Ok(None);
    };
    let directory: PathBuf = cache.packages().join(&newest);
    let mut words = newest.split('_');
    let package = words.next().unwrap_or_default().to_owned();
    let version = words.next().unwrap_or_default().to_owned();
    located(
        &directory,
        &package.clone(),
        BTreeMap::from([(package, version)]),
    )
    .map(Some)
}
