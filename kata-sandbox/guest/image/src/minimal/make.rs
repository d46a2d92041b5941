//! The kernel's own build, driven.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::config::Fragments;
use crate::progress::{Progress, Report};
use crate::{Architecture, Error, tool};

/// Programs that the build runs, and the packages that have them.
const TOOLS: [(&str, &str); 6] = [
    ("make", "make"),
    ("gcc", "gcc libc6-dev"),
    ("ld", "binutils"),
    ("flex", "flex"),
    ("bison", "bison"),
    ("bc", "bc"),
];
/// How many lines of the build's output are kept for an error.
const TAIL: usize = 60;
/// The progress is told after so many files.
const STRIDE: usize = 25;

/// A tree of sources that is being built, in itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Build<'a> {
    pub(super) tree: &'a Path,
    pub(super) architecture: Architecture,
    pub(super) jobs: usize,
}

/// What the names of another architecture's tools begin with.
fn cross_prefix(architecture: Architecture) -> &'static str {
    match architecture {
        _ if Architecture::host() == Ok(architecture) => "",
        Architecture::X86_64 => "x86_64-linux-gnu-",
        Architecture::Aarch64 => "aarch64-linux-gnu-",
    }
}

/// Says now what would be missing minutes later.
pub(super) fn check_tools(architecture: Architecture) -> Result<(), Error> {
    for (program, package) in TOOLS {
        tool::output(Command::new(program).arg("--version"), package)?;
    }
    let cross = cross_prefix(architecture);
    let package = match architecture {
        Architecture::X86_64 => "gcc-x86-64-linux-gnu",
        Architecture::Aarch64 => "gcc-aarch64-linux-gnu",
    };
    if !cross.is_empty() {
        tool::output(
            Command::new(format!("{cross}gcc")).arg("--version"),
            package,
        )?;
    }
    Ok(())
}

impl Build<'_> {
    /// Configures the kernel and checks that nothing that was asked for is lost.
    pub(super) fn configure(&self, fragments: &Fragments, report: Report<'_>) -> Result<(), Error> {
        report(Progress::Step("configuring the minimal kernel".into()));
        let fragment = self.tree.join("kata.config");
        std::fs::write(&fragment, fragments.text()).map_err(Error::write(&fragment))?;
        let mut command = self.make();
        command
            .env("KCONFIG_ALLCONFIG", &fragment)
            .arg("allnoconfig");
        tool::output(&mut command, "make")?;
        let path = self.tree.join(".config");
        let config = std::fs::read_to_string(&path).map_err(Error::read(&path))?;
        let lost = fragments.lost(&config);
        if lost.is_empty() {
            Ok(())
        } else {
            Err(Error::OptionsLost { options: lost })
        }
    }

    /// Compiles the kernel and says where it is.
    pub(super) fn compile(&self, report: Report<'_>) -> Result<PathBuf, Error> {
        let (target, file) = match self.architecture {
            Architecture::X86_64 => ("vmlinux", "vmlinux"),
            Architecture::Aarch64 => ("Image", "arch/arm64/boot/Image"),
        };
        report(Progress::Step("compiling the minimal kernel".into()));
        let mut command = self.make();
        command.arg(format!("-j{}", self.jobs)).arg(target);
        run_with_count(&mut command, report)?;
        Ok(self.tree.join(file))
    }

    fn make(&self) -> Command {
        let mut command = Command::new("make");
        command
            .current_dir(self.tree)
            .arg(format!("ARCH={}", self.architecture.kernel()));
        let cross = cross_prefix(self.architecture);
        if !cross.is_empty() {
            command.arg(format!("CROSS_COMPILE={cross}"));
        }
        // The kernel says in its banner when, where and by whom it was built.
        command
            .env("KBUILD_BUILD_TIMESTAMP", "1970-01-01")
            .env("KBUILD_BUILD_USER", "kata")
            .env("KBUILD_BUILD_HOST", "kata")
            .env_remove("MAKEFLAGS")
            .env_remove("MFLAGS");
        command
    }
}

/// Runs `command`, telling how many files it has compiled.
fn run_with_count(command: &mut Command, report: Report<'_>) -> Result<(), Error> {
    let pipe = |source| tool::missing(Command::new("pipe").arg(""), "make", source);
    let (reader, writer) = std::io::pipe().map_err(pipe)?;
    let twin = writer.try_clone().map_err(pipe)?;
    command
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(twin);
    let mut child = command
        .spawn()
        .map_err(|source| tool::missing(command, "make", source))?;
    // The command still holds its ends of the pipe, which must close with the child.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut tail = std::collections::VecDeque::new();
    let mut done = 0;
    for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        if line.trim_start().starts_with("CC ") {
            done += 1;
            if done % STRIDE == 0 {
                report(Progress::Count {
                    what: "files compiled",
                    done,
                });
            }
        }
        tail.push_back(line);
        if tail.len() > TAIL {
            tail.pop_front();
        }
    }
    let status = child
        .wait()
        .map_err(|source| tool::missing(command, "make", source))?;
    if status.success() {
        return Ok(());
    }
    Err(tool::failed(command, status, &Vec::from(tail).join("\n")))
}

/// Copies the kernel without what only a debugger reads.
pub(super) fn keep_needed(
    kernel: &Path,
    target: &Path,
    architecture: Architecture,
) -> Result<(), Error> {
    match architecture {
        Architecture::X86_64 => {
            let mut command = Command::new(format!("{}strip", cross_prefix(architecture)));
            command.arg("--strip-all").arg("-o").arg(target).arg(kernel);
            tool::output(&mut command, "binutils").map(drop)
        }
        Architecture::Aarch64 => std::fs::copy(kernel, target)
            .map_err(Error::read(kernel))
            .map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn files_are_counted_while_they_are_compiled() {
        let counts = RefCell::new(vec![]);
        let report = |progress: Progress| counts.borrow_mut().push(progress.to_string());
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "i=0; while [ $i -lt 60 ]; do echo '  CC  x.o'; i=$((i+1)); done",
        ]);
        run_with_count(&mut command, &report).unwrap();
        assert_eq!(
            counts.into_inner(),
            ["25 files compiled", "50 files compiled"]
        );
    }

    #[test]
    fn a_build_that_fails_shows_the_end_of_what_it_said() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo first; echo 'x.c:1: error' >&2; exit 2"]);
        let error = run_with_count(&mut command, &|_| {})
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("x.c:1: error") && error.contains("exit 2"),
            "{error}"
        );
    }
}
