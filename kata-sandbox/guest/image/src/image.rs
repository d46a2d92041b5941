//! An image: kernel, initramfs and manifest in one directory.

use std::fs;
use std::path::{Path, PathBuf};

use kata_protocol::manifest::{self, ImageFile, Manifest, ManifestError};
use sha2::{Digest, Sha256};

use crate::initramfs::{self, DEFAULT_MODULES};
use crate::modules::{Module, ModuleTree};
use crate::progress::{Progress, Report};
use crate::publish::Draft;
use crate::source::{Found, KernelSource};
use crate::{Architecture, BootKernel, Cache, Error, agent};

/// The initramfs's name in an image.
const INITRAMFS: &str = "initramfs.cpio";
/// Where the manifest keeps the checksum of everything that went in.
const INPUTS: &str = "inputs";

/// An image that is to be made.
#[derive(Clone, Debug)]
#[must_use]
pub struct ImageBuilder {
    agent: PathBuf,
    agent_version: Option<String>,
    architecture: Option<Architecture>,
    kernel: KernelSource,
    modules: Vec<String>,
    parameters: Vec<String>,
    name: Option<String>,
}

impl ImageBuilder {
    /// An image with the agent in the file `agent`, for the host's architecture,
    /// with the kernel of [`KernelSource::Automatic`] and [`DEFAULT_MODULES`].
    pub fn new(agent: impl Into<PathBuf>) -> Self {
        Self {
            agent: agent.into(),
            agent_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            architecture: None,
            kernel: KernelSource::default(),
            modules: DEFAULT_MODULES
                .iter()
                .map(|name| (*name).to_owned())
                .collect(),
            parameters: vec![],
            name: None,
        }
    }

    /// The agent's version; `None` for one that is not this project's. By
    /// default that of this crate.
    pub fn agent_version(mut self, version: Option<String>) -> Self {
        self.agent_version = version;
        self
    }

    /// The architecture, in place of the host's.
    pub fn architecture(mut self, architecture: Architecture) -> Self {
        self.architecture = Some(architecture);
        self
    }

    /// Where the kernel comes from.
    pub fn kernel(mut self, source: KernelSource) -> Self {
        self.kernel = source;
        self
    }

    /// The modules that are wanted; those that they need come by themselves.
    pub fn modules(mut self, names: impl IntoIterator<Item = String>) -> Self {
        self.modules = names.into_iter().collect();
        self
    }

    /// Words that the kernel's command line must have.
    pub fn kernel_parameters(mut self, words: impl IntoIterator<Item = String>) -> Self {
        self.parameters = words.into_iter().collect();
        self
    }

    /// What the image is called, in place of kernel family and release.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Makes the image in `directory`, in place of an older one; does nothing if
    /// the image there was made from the same.
    ///
    /// # Errors
    /// [`Error`]; `directory` is then as it was.
    pub fn build(
        &self,
        directory: impl AsRef<Path>,
        cache: &Cache,
        report: Report<'_>,
    ) -> Result<Manifest, Error> {
        let directory = directory.as_ref();
        let architecture = match self.architecture {
            Some(architecture) => architecture,
            None => Architecture::host()?,
        };
        let agent = agent::read(&self.agent, architecture)?;
        let found = self.kernel.find(architecture, cache, report)?;
        let packed = fs::read(&found.kernel).map_err(Error::read(&found.kernel))?;
        let inputs = self.inputs(architecture, &agent, &found, &packed)?;
        if let Some(manifest) = up_to_date(directory, &inputs) {
            report(Progress::Step(format!("{} is up to date", manifest.name)));
            return Ok(manifest);
        }
        report(Progress::Step(format!(
            "making the image in {}",
            directory.display()
        )));
        let kernel = BootKernel::from_bytes(packed)
            .and_then(|kernel| kernel.expect_architecture(architecture))
            .map_err(|source| Error::Kernel {
                path: found.kernel.clone(),
                source,
            })?;
        let modules = self.resolve(&found, &kernel.release)?;
        self.write(directory, agent, found, kernel, modules, inputs)
    }

    fn resolve(&self, found: &Found, release: &str) -> Result<Vec<Module>, Error> {
        match &found.modules {
            Some(directory) => ModuleTree::open(directory, release)?.resolve(&self.modules),
            None => Ok(vec![]),
        }
    }

    /// A checksum of all that goes into the image: of modules their place and
    /// list, because a kernel's modules do not change without the kernel.
    fn inputs(
        &self,
        architecture: Architecture,
        agent: &[u8],
        found: &Found,
        kernel: &[u8],
    ) -> Result<String, Error> {
        let listing = match &found.modules {
            Some(directory) => ModuleTree::open(directory, "")?.fingerprint()?,
            None => String::new(),
        };
        let mut hash = Sha256::new();
        let words = [env!("CARGO_PKG_VERSION"), architecture.as_str(), &listing];
        let words = words.into_iter().chain(self.name.as_deref()).chain(["/"]);
        let words = words.chain(self.agent_version.as_deref()).chain(["/"]);
        let words = words
            .chain(self.modules.iter().map(String::as_str))
            .chain(["/"]);
        for word in words.chain(self.parameters.iter().map(String::as_str)) {
            hash.update(word);
            hash.update([0]);
        }
        for bytes in [agent, kernel] {
            hash.update(Sha256::digest(bytes));
        }
        for (key, value) in &found.provenance {
            hash.update(format!("{key}={value}\0"));
        }
        Ok(hash
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect())
    }

    fn write(
        &self,
        directory: &Path,
        agent: Vec<u8>,
        found: Found,
        kernel: BootKernel,
        modules: Vec<Module>,
        inputs: String,
    ) -> Result<Manifest, Error> {
        let draft = Draft::begin(directory)?;
        let names = modules.iter().map(|module| module.name.clone()).collect();
        let archive = initramfs::assemble(agent, &kernel.release, modules);
        let archive = archive.to_bytes().ok_or(Error::InitramfsTooLarge)?;
        let kernel_file = draft.write(kernel.architecture.kernel_file(), &kernel.bytes)?;
        let initramfs = draft.write(INITRAMFS, &archive)?;
        let name = format!("{}-{}", found.family, kernel.release);
        let mut provenance = found.provenance;
        provenance.insert(INPUTS.into(), inputs);
        let manifest = Manifest {
            version: manifest::VERSION,
            name: self.name.clone().unwrap_or(name),
            architecture: kernel.architecture.to_string(),
            kernel_release: kernel.release,
            kernel: describe(&kernel_file)?,
            initramfs: Some(describe(&initramfs)?),
            disk: None,
            virtio_mmio_command_line: kernel.virtio_mmio_command_line,
            kernel_parameters: self.parameters.clone(),
            agent: self.agent_version.clone(),
            modules: names,
            provenance,
        };
        write_manifest(&draft, &manifest)?;
        draft.publish()?;
        Ok(manifest)
    }
}

/// Reads the image in `directory` and verifies every file of it.
///
/// # Errors
/// When the manifest or a file is missing or damaged.
pub fn verify(directory: impl AsRef<Path>) -> Result<Manifest, ManifestError> {
    let manifest = Manifest::load(directory.as_ref())?;
    manifest.verify(directory.as_ref())?;
    Ok(manifest)
}

pub(crate) fn describe(path: &Path) -> Result<ImageFile, Error> {
    ImageFile::describe(path).map_err(Error::read(path))
}

pub(crate) fn write_manifest(draft: &Draft, manifest: &Manifest) -> Result<(), Error> {
    let mut json = serde_json::to_vec_pretty(manifest)
        .expect("a manifest has only strings, numbers, lists and maps of strings");
    json.push(b'\n');
    draft.write(manifest::FILE, &json).map(drop)
}

fn up_to_date(directory: &Path, inputs: &str) -> Option<Manifest> {
    let manifest = verify(directory).ok()?;
    (manifest.provenance.get(INPUTS).map(String::as_str) == Some(inputs)).then_some(manifest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::tests::elf;
    use crate::kernel::tests::{bzimage, gzip, vmlinux};
    use std::cell::RefCell;

    struct Workshop {
        root: tempfile::TempDir,
        cache: Cache,
    }

    impl Workshop {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let at = |name: &str| root.path().join(name);
            fs::write(at("agent"), elf(62, 1, ".text", b"agent")).unwrap();
            let kernel = bzimage(&gzip(&vmlinux("Linux version 6.1-test (x)")));
            fs::write(at("vmlinuz"), kernel).unwrap();
            fs::create_dir(at("modules")).unwrap();
            for (name, info) in [("virtio", "depends=\0"), ("virtio_blk", "depends=virtio\0")] {
                let module = elf(62, 1, ".modinfo", info.as_bytes());
                fs::write(at("modules").join(format!("{name}.ko")), module).unwrap();
            }
            let cache = Cache::open(at("cache")).unwrap();
            Self { root, cache }
        }

        fn at(&self, name: &str) -> PathBuf {
            self.root.path().join(name)
        }

        fn builder(&self) -> ImageBuilder {
            let modules = Some(self.at("modules"));
            ImageBuilder::new(self.at("agent"))
                .architecture(Architecture::X86_64)
                .kernel(KernelSource::File {
                    kernel: self.at("vmlinuz"),
                    modules,
                })
                .modules(["virtio_blk".to_owned()])
        }

        fn build(&self, builder: &ImageBuilder, name: &str) -> (Manifest, Vec<String>) {
            let steps = RefCell::new(vec![]);
            let report = |progress: Progress| steps.borrow_mut().push(progress.to_string());
            let manifest = builder.build(self.at(name), &self.cache, &report).unwrap();
            (manifest, steps.into_inner())
        }
    }

    #[test]
    fn an_image_says_what_it_is_and_verifies() {
        let workshop = Workshop::new();
        let builder = workshop.builder().kernel_parameters(["quiet".to_owned()]);
        let (manifest, _) = workshop.build(&builder, "image");
        assert_eq!(manifest.name, "custom-6.1-test");
        assert_eq!(manifest.modules, ["virtio", "virtio_blk"]);
        assert_eq!(manifest.kernel_parameters, ["quiet"]);
        assert_eq!(manifest.agent.as_deref(), Some(env!("CARGO_PKG_VERSION")));
        assert_eq!(verify(workshop.at("image")).unwrap(), manifest);
        let kernel = fs::read(workshop.at("image").join("vmlinux")).unwrap();
        assert_eq!(kernel, vmlinux("Linux version 6.1-test (x)"));
    }

    #[test]
    fn the_same_inputs_give_the_same_bytes() {
        let workshop = Workshop::new();
        workshop.build(&workshop.builder(), "one");
        workshop.build(&workshop.builder(), "other");
        for file in ["vmlinux", INITRAMFS, manifest::FILE] {
            let [one, other] =
                ["one", "other"].map(|name| fs::read(workshop.at(name).join(file)).unwrap());
            assert!(one == other, "{file}");
        }
    }

    #[test]
    fn an_image_is_made_again_only_when_something_changed() {
        let workshop = Workshop::new();
        workshop.build(&workshop.builder(), "image");
        let (_, again) = workshop.build(&workshop.builder(), "image");
        assert_eq!(again, ["custom-6.1-test is up to date"]);
        fs::write(workshop.at("agent"), elf(62, 1, ".text", b"newer")).unwrap();
        let (_, changed) = workshop.build(&workshop.builder(), "image");
        assert!(changed[0].starts_with("making"), "{changed:?}");
        fs::write(workshop.at("image/vmlinux"), b"damaged").unwrap();
        let (_, repaired) = workshop.build(&workshop.builder(), "image");
        assert!(repaired[0].starts_with("making"), "{repaired:?}");
    }

    #[test]
    fn without_modules_everything_is_taken_to_be_built_in() {
        let workshop = Workshop::new();
        let kernel = workshop.at("vmlinuz");
        let source = KernelSource::File {
            kernel,
            modules: None,
        };
        let (manifest, _) = workshop.build(&workshop.builder().kernel(source), "image");
        assert_eq!(manifest.modules, Vec::<String>::new());
    }

    #[test]
    fn an_image_that_cannot_be_made_leaves_the_old_one() {
        let workshop = Workshop::new();
        let (manifest, _) = workshop.build(&workshop.builder(), "image");
        let builder = workshop.builder().modules(["gone".to_owned()]);
        let error = builder
            .build(workshop.at("image"), &workshop.cache, &|_| {})
            .unwrap_err();
        assert!(error.to_string().contains("gone"), "{error}");
        assert_eq!(verify(workshop.at("image")).unwrap(), manifest);
        let kernel = KernelSource::File {
            kernel: workshop.at("agent"),
            modules: None,
        };
        let builder = workshop.builder().kernel(kernel);
        let error = builder
            .build(workshop.at("image"), &workshop.cache, &|_| {})
            .unwrap_err();
        assert!(matches!(error, Error::Kernel { .. }), "{error}");
    }
}
