//! A kernel's modules on disk: `/lib/modules/RELEASE`, or the like of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::modinfo::{Needs, without_signature};
use super::{normal, order};
use crate::Error;
use crate::compression::Compression;

/// No module is larger than this when decompressed.
const LIMIT: usize = 64 << 20;

/// The modules of one kernel.
#[derive(Clone, Debug)]
pub struct ModuleTree {
    directory: PathBuf,
    release: String,
    files: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
}

/// A module, ready for an initramfs: not compressed, without its signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its name, with `_` for `-`.
    pub name: String,
    /// The file.
    pub bytes: Vec<u8>,
}

impl ModuleTree {
    /// Looks through `directory`, which holds the modules of the kernel
    /// `release`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(directory: &Path, release: &str) -> Result<Self, Error> {
        let mut paths = Vec::new();
        collect(directory, &mut paths)?;
        // In this order a module in updates/ replaces the one in kernel/.
        paths.sort();
        let files = paths
            .into_iter()
            .filter_map(|path| Some((module_name(&path)?, path)));
        let files = files.collect();
        let (directory, release) = (directory.to_owned(), release.to_owned());
        let built_in = built_in(&directory)?;
        Ok(Self {
            directory,
            release,
            files,
            built_in,
        })
    }

    /// The modules `wanted` and all that they need, in load order. What is built
    /// into the kernel is left out.
    ///
    /// # Errors
    /// When a module is missing, damaged, or needs itself.
    pub fn resolve(&self, wanted: &[String]) -> Result<Vec<Module>, Error> {
        let mut loaded = BTreeMap::new();
        let wanted: Vec<_> = wanted.iter().map(|name| normal(name)).collect();
        let order = order::load_order(&wanted, |name| {
            if self.built_in.contains(name) {
                return Ok::<_, Error>(vec![]);
            }
            let (needs, bytes) = self.load(name)?;
            loaded.insert(name.to_owned(), bytes);
            let soft = needs.soft.iter().map(|name| normal(name));
            let soft = soft.filter(|name| self.files.contains_key(name));
            Ok(needs
                .hard
                .iter()
                .map(|name| normal(name))
                .chain(soft)
                .collect())
        })?;
        let order = order.map_err(|chain| {
            let module = chain.first().cloned().unwrap_or_default();
            Error::ModuleCircle { module, chain }
        })?;
        let modules = order.into_iter().filter_map(|name| {
            let bytes = loaded.remove(&name)?;
            Some(Module { name, bytes })
        });
        Ok(modules.collect())
    }

    /// Changes when a module is added, removed or replaced.
    pub(crate) fn fingerprint(&self) -> Result<String, Error> {
        let mut lines = self.built_in.iter().cloned().collect::<Vec<_>>();
        for (name, path) in &self.files {
            let size = fs::metadata(path).map_err(Error::read(path))?.len();
            lines.push(format!("{name} {size}"));
        }
        Ok(lines.join("\n"))
    }

    fn load(&self, name: &str) -> Result<(Needs, Vec<u8>), Error> {
        let path = self.files.get(name).ok_or_else(|| Error::NoModule {
            module: name.to_owned(),
            release: self.release.clone(),
            directory: self.directory.clone(),
        })?;
        let mut bytes = fs::read(path).map_err(Error::read(path))?;
        if let Some(compression) = Compression::of(&bytes) {
            bytes = compression.decompress(&bytes, LIMIT).map_err(|source| {
                Error::CompressedModule {
                    path: path.clone(),
                    source,
                }
            })?;
        }
        bytes.truncate(without_signature(&bytes).len());
        let needs = Needs::of(&bytes);
        let needs = needs.map_err(|source| Error::Module {
            path: path.clone(),
            source,
        })?;
        Ok((needs, bytes))
    }
}

/// All files below `directory`; symbolic links, such as the one to the kernel's
/// headers, are not followed.
fn collect(directory: &Path, into: &mut Vec<PathBuf>) -> Result<(), Error> {
    for entry in fs::read_dir(directory).map_err(Error::read(directory))? {
        let entry = entry.map_err(Error::read(directory))?;
        let kind = entry.file_type().map_err(Error::read(entry.path()))?;
        if kind.is_dir() {
            collect(&entry.path(), into)?;
        } else if kind.is_file() {
            into.push(entry.path());
        }
    }
    Ok(())
}

/// The name of the module in this file; `None` when it holds none.
fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let (name, compression) = file.rsplit_once(".ko")?;
    ["", ".gz", ".xz", ".zst"]
        .contains(&compression)
        .then(|| normal(name))
}

fn built_in(directory: &Path) -> Result<BTreeSet<String>, Error> {
    let path = directory.join("modules.builtin");
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text
            .lines()
            .filter_map(|line| module_name(Path::new(line)))
            .collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(source) => Err(Error::Read { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::tests::elf;
    use crate::kernel::tests::gzip;

    fn module(needs: &str) -> Vec<u8> {
        elf(62, 1, ".modinfo", format!("depends={needs}\0").as_bytes())
    }

    fn tree(files: &[(&str, Vec<u8>)]) -> (tempfile::TempDir, ModuleTree) {
        let directory = tempfile::tempdir().unwrap();
        for (path, bytes) in files {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let tree = ModuleTree::open(directory.path(), "6.1-test").unwrap();
        (directory, tree)
    }

    fn names(modules: &[Module]) -> Vec<&str> {
        modules.iter().map(|module| module.name.as_str()).collect()
    }

    #[test]
    fn modules_come_with_what_they_need_and_without_what_is_built_in() {
        let (_directory, tree) = tree(&[
            ("modules.builtin", b"kernel/fs/fuse/fuse.ko\n".to_vec()),
            ("kernel/drivers/virtio-ring.ko", module("")),
            ("kernel/drivers/virtio.ko.gz", gzip(&module("virtio_ring"))),
            ("kernel/fs/virtiofs.ko", module("fuse,virtio")),
        ]);
        let modules = tree.resolve(&["virtiofs".into(), "fuse".into()]).unwrap();
        assert_eq!(names(&modules), ["virtio_ring", "virtio", "virtiofs"]);
        assert_eq!(modules[1].bytes, module("virtio_ring"));
    }

    #[test]
    fn an_update_replaces_the_kernels_own_module() {
        let (_directory, tree) = tree(&[
            ("updates/x.ko", module("")),
            ("kernel/x.ko", module("y")),
            ("kernel/y.ko", module("")),
        ]);
        assert_eq!(names(&tree.resolve(&["x".into()]).unwrap()), ["x"]);
    }

    #[test]
    fn a_module_that_is_missing_is_named_with_the_kernel() {
        let (_directory, tree) = tree(&[("kernel/x.ko", module("gone"))]);
        let error = tree.resolve(&["x".into()]).unwrap_err().to_string();
        assert!(
            error.contains("gone") && error.contains("6.1-test"),
            "{error}"
        );
    }

    #[test]
    fn modules_that_need_each_other_are_an_error() {
        let (_directory, tree) = tree(&[("a.ko", module("b")), ("b.ko", module("a"))]);
        let error = tree.resolve(&["a".into()]).unwrap_err().to_string();
        assert!(error.contains("a -> b -> a"), "{error}");
    }

    #[test]
    fn a_file_that_is_no_module_is_named() {
        let (_directory, tree) = tree(&[("a.ko", b"text".to_vec())]);
        let error = tree.resolve(&["a".into()]).unwrap_err().to_string();
        assert!(
            error.contains("a.ko") && error.contains("not a kernel module"),
            "{error}"
        );
    }
}
