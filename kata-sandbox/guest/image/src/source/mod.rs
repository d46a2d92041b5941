//! Where a guest's kernel comes from.

mod installed;
mod package;

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::minimal::MinimalKernel;
use crate::progress::Report;
use crate::{Architecture, Cache, Error};

/// Where a guest's kernel comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum KernelSource {
    /// The installed kernel if there is one that can be read, for the host's
    /// architecture; else the distribution's package.
    #[default]
    Automatic,
    /// A kernel in `/boot` with its modules in `/lib/modules`.
    Installed {
        /// Its release; the newest by default.
        release: Option<String>,
    },
    /// The distribution's package, unpacked into the cache, not installed.
    Package {
        /// Its name; by default the distribution's kernel for virtual machines.
        name: Option<String>,
    },
    /// A small kernel without modules, built from the distribution's sources.
    Minimal,
    /// A file.
    File {
        /// The kernel, in any form that distributions use.
        kernel: PathBuf,
        /// Its modules; without them everything is taken to be built in.
        modules: Option<PathBuf>,
    },
}

/// A kernel that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The kernel, as it is shipped.
    pub(crate) kernel: PathBuf,
    /// The directory of its modules, if it has any.
    pub(crate) modules: Option<PathBuf>,
    /// What its images are called, before the release.
    pub(crate) family: String,
    /// What it is, for people.
    pub(crate) provenance: BTreeMap<String, String>,
}

impl KernelSource {
    /// Finds the kernel, fetching or building it where this says so.
    pub(crate) fn find(
        &self,
        architecture: Architecture,
        cache: &Cache,
        report: Report<'_>,
    ) -> Result<Found, Error> {
        match self {
            Self::Automatic => {
                let is_host = Architecture::host() == Ok(architecture);
                let installed = is_host.then(|| installed::find("/".as_ref(), None));
                match installed {
                    Some(Ok(found)) => Ok(found),
                    _ => package::find(None, architecture, cache, report),
                }
            }
            Self::Installed { release } => installed::find("/".as_ref(), release.as_deref()),
            Self::Package { name } => package::find(name.as_deref(), architecture, cache, report),
            Self::Minimal => MinimalKernel::new(architecture)
                .build(cache, report)
                .map(|built| {
                    let provenance = BTreeMap::from([("kernel".into(), built.provenance)]);
                    let family = "minimal".into();
                    Found {
                        kernel: built.kernel,
                        modules: None,
                        family,
                        provenance,
                    }
                }),
            Self::File { kernel, modules } => {
                let name = kernel.file_name().unwrap_or_default().to_string_lossy();
                Ok(Found {
                    kernel: kernel.clone(),
                    modules: modules.clone(),
                    family: "custom".into(),
                    provenance: BTreeMap::from([("kernel".into(), name.into_owned())]),
                })
            }
        }
    }
}
