//! A small kernel without modules, built from the distribution's sources with
//! the configuration in `kernel/`.

mod config;
mod make;
mod sources;

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::progress::{Progress, Report};
use crate::publish::{Draft, Turn};
use crate::{Architecture, Cache, Error};
use config::Fragments;
use sources::{Origin, Sources};

/// A small kernel that is to be built.
#[derive(Clone, Debug)]
#[must_use]
pub struct MinimalKernel {
    architecture: Architecture,
    sources: Origin,
    jobs: usize,
}

/// A kernel that was built, or found in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Built {
    /// The kernel.
    pub kernel: PathBuf,
    /// Its whole configuration.
    pub config: PathBuf,
    /// What it was built from.
    pub provenance: String,
}

impl MinimalKernel {
    /// A kernel for `architecture`, from the distribution's sources, built on
    /// all processors.
    pub fn new(architecture: Architecture) -> Self {
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            architecture,
            sources: Origin::Package(sources::PACKAGE.into()),
            jobs,
        }
    }

    /// A tar archive of kernel sources, in place of the distribution's.
    pub fn archive(mut self, archive: impl Into<PathBuf>) -> Self {
        self.sources = Origin::Archive(archive.into());
        self
    }

    /// Another package of the distribution's, such as `linux-source-6.12`.
    pub fn package(mut self, name: impl Into<String>) -> Self {
        self.sources = Origin::Package(name.into());
        self
    }

    /// How many compilers run at once.
    pub fn jobs(mut self, jobs: usize) -> Self {
        self.jobs = jobs.max(1);
        self
    }

    /// Builds the kernel, unless it is in the cache.
    ///
    /// # Errors
    /// When sources or tools are missing, the build fails, or the configuration
    /// lost an option.
    pub fn build(&self, cache: &Cache, report: Report<'_>) -> Result<Built, Error> {
        let fragments = Fragments::of(self.architecture);
        let sources = Sources::find(&self.sources)?;
        let key = format!(
            "{}-{}-{}",
            sources.version,
            self.architecture,
            &hex(&Sha256::digest(fragments.text()))[..12]
        );
        let directory = cache.kernels().join(&key);
        let built = Built {
            kernel: directory.join(self.architecture.kernel_file()),
            config: directory.join("config"),
            provenance: format!("linux {}", sources.version),
        };
        if !built.kernel.exists() {
            make::check_tools(self.architecture)?;
            let step = Progress::Step(format!("waiting for another build of {key}"));
            let waiting = || report(step);
            let _turn = Turn::wait(&directory, waiting)?;
            if !built.kernel.exists() {
                self.make(&directory, &fragments, &sources, report)?;
                return Ok(built);
            }
        }
        report(Progress::Step(format!(
            "minimal kernel {key} is in the cache"
        )));
        Ok(built)
    }

    fn make(
        &self,
        directory: &Path,
        fragments: &Fragments,
        sources: &Sources,
        report: Report<'_>,
    ) -> Result<(), Error> {
        let draft = Draft::begin(directory)?;
        let tree = sources.unpack(draft.path(), report)?;
        let build = make::Build {
            tree: &tree,
            architecture: self.architecture,
            jobs: self.jobs,
        };
        build.configure(fragments, report)?;
        let kernel = build.compile(report)?;
        make::keep_needed(
            &kernel,
            &draft.path().join(self.architecture.kernel_file()),
            self.architecture,
        )?;
        let config = tree.join(".config");
        std::fs::copy(&config, draft.path().join("config")).map_err(Error::read(&config))?;
        std::fs::remove_dir_all(&tree).map_err(Error::write(&tree))?;
        draft.publish().map(drop)
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
