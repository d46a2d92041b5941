//! Kernel modules.
//!
//! The image lists the modules that its kernel needs in the order in which they
//! load, one path a line, with parameters after it. Parameters on the kernel
//! command line, `module.parameter=value`, are for built-in code only as far as
//! the kernel is concerned; here they are passed to the module that they name.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::system::finit_module;

use super::BootError;

/// The list that the image maker writes.
const LIST: &str = "/etc/kata/modules";
/// `MODULE_INIT_COMPRESSED_FILE` of `linux/module.h`.
const COMPRESSED: i32 = 4;

/// Loads the modules that the image lists, if it lists any.
pub(super) fn load_listed(command_line: &str) -> Result<(), BootError> {
    let list = match std::fs::read_to_string(LIST) {
        Ok(list) => list,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(BootError::File {
                path: LIST.into(),
                source,
            });
        }
    };
    for line in list.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (path, own) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let path = PathBuf::from(path);
        let parameters = parameters(&name_of(&path), own, command_line);
        load(&path, &parameters).map_err(|source| BootError::Module { path, source })?;
    }
    Ok(())
}

/// Loads the module in `path`; one that is loaded already is left as it is.
fn load(path: &Path, parameters: &str) -> io::Result<()> {
    let file = File::open(path)?;
    let parameters = CString::new(parameters)?;
    let compressed = path.extension().is_some_and(|extension| extension != "ko");
    match finit_module(&file, &parameters, if compressed { COMPRESSED } else { 0 }) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Loads the module of a `name` for the running kernel, after what it depends
/// on, as `modules.dep` lists it.
pub(crate) fn load_by_name(name: &str, parameters: &str) -> Result<(), String> {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let directory = Path::new("/lib/modules").join(release);
    let list = directory.join("modules.dep");
    let text = std::fs::read_to_string(&list)
        .map_err(|error| format!("cannot read {}: {error}", list.display()))?;
    let wanted = name.replace('-', "_");
    let (module, dependencies) = find_dependencies(&text, &wanted)
        .ok_or_else(|| format!("{} has no module {name}", list.display()))?;
    // The list has what is needed first last.
    for path in dependencies.iter().rev() {
        load(&directory.join(path), "")
            .map_err(|error| format!("cannot load {path}, which {name} needs: {error}"))?;
    }
    load(&directory.join(module), parameters)
        .map_err(|error| format!("cannot load the kernel module {name}: {error}"))
}

/// The file of a module and those of what it depends on: `file: file file …`.
fn find_dependencies<'a>(list: &'a str, module: &str) -> Option<(&'a str, Vec<&'a str>)> {
    list.lines().find_map(|line| {
        let (file, rest) = line.split_once(':')?;
        (name_of(Path::new(file)) == module).then(|| (file, rest.split_whitespace().collect()))
    })
}

/// The name of the module in a file: up to the first dot, dashes as the kernel
/// spells them.
fn name_of(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    file.split('.').next().unwrap_or_default().replace('-', "_")
}

/// The parameters of a module: its own, and those of the command line.
fn parameters(module: &str, own: &str, command_line: &str) -> String {
    let mut all = own.trim().to_owned();
    for word in command_line.split_ascii_whitespace() {
        let Some((name, setting)) = word.split_once('.') else {
            continue;
        };
        if setting.contains('=') && name.replace('-', "_") == module {
            if !all.is_empty() {
                all.push(' ');
            }
            all.push_str(setting);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_gets_its_words_of_the_command_line() {
        let command_line = "quiet virtio_mmio.device=512@0xfeb00000:5 agent.log=debug \
                            virtio-mmio.device=512@0xfeb00200:6 virtio_mmio";
        assert_eq!(
            parameters("virtio_mmio", "", command_line),
            "device=512@0xfeb00000:5 device=512@0xfeb00200:6"
        );
        assert_eq!(parameters("fuse", "max=1", command_line), "max=1");
    }

    #[test]
    fn dependencies_are_found_by_the_module_s_name() {
        let list = "kernel/a/x.ko:\nkernel/b/virtio-fs.ko: kernel/c/fuse.ko kernel/d/virtio.ko\n";
        let (file, needs) = find_dependencies(list, "virtio_fs").unwrap();
        assert_eq!(file, "kernel/b/virtio-fs.ko");
        assert_eq!(needs, ["kernel/c/fuse.ko", "kernel/d/virtio.ko"]);
        assert_eq!(find_dependencies(list, "fuse"), None);
    }

    #[test]
    fn a_module_is_named_as_the_kernel_names_it() {
        assert_eq!(
            name_of(Path::new("/lib/modules/6/virtio-mmio.ko.xz")),
            "virtio_mmio"
        );
    }
}
