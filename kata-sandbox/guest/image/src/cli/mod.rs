//! The command line.

mod failure;
mod options;
mod show;

use std::error::Error as _;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::process::ExitCode;

use kata_image::{
    Architecture, ForeignImage, ImageBuilder, KernelSource, Manifest, MinimalKernel, verify,
};

use failure::Failure;
use options::{Options, missing};
use show::Shown;

const HELP: &str = "\
Makes guest images: kernel, initramfs and manifest.

Usage: kata-image COMMAND [OPTIONS]

  build     make an image; prints its directory
      --agent FILE             the agent, a static program (required)
      --output DIR             where to; by default in the cache
      --arch ARCH              x86_64 or aarch64; by default the host's
      --name NAME              what the image is called
      --modules-wanted A,B,…   in place of the usual modules
      --parameters 'A B …'     words for the kernel's command line
    and the kernel, one of
      --kernel-installed[=RELEASE]   from /boot and /lib/modules
      --kernel-package[=NAME]        the distribution's package, not installed
      --kernel-minimal               built from the distribution's sources
      --kernel FILE [--modules DIR]  a file: ELF, bzImage, Image, zboot
    by default the installed one if it can be read, else the package

  kernel    build the minimal kernel; prints its path
      --arch ARCH
      --sources FILE           a tar archive, or
      --package NAME           another package than linux-source
      --jobs N                 compilers at once; by default one per processor

  import    take an image that others made; prints its directory
      --release DIR            a directory of a Kata Containers release, or
      --kernel FILE and --initrd FILE or --disk FILE
      --output DIR             where to (required)
      --name NAME
      --parameters 'A B …'

  verify DIR    check every file of an image against its manifest
  inspect DIR   show what an image is

Everywhere:
      --cache DIR   by default $XDG_CACHE_HOME/kata-sandbox or ~/.cache/kata-sandbox
      --quiet       no progress
";

/// Runs the program on its own command line.
pub(crate) fn run() -> ExitCode {
    match command(&std::env::args_os().skip(1).collect::<Vec<_>>()) {
        Ok(text) => {
            // A reader that has seen enough is no failure of ours.
            drop(io::stdout().write_all(text.as_bytes()));
            ExitCode::SUCCESS
        }
        Err(Failure::Usage(error)) => {
            eprintln!("kata-image: {error}; see 'kata-image help'");
            ExitCode::from(2)
        }
        Err(Failure::Work(error)) => {
            eprintln!("kata-image: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  because: {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}

/// Carries out a command and gives what it prints.
fn command(words: &[OsString]) -> Result<String, Failure> {
    let asks_for_help = |word: &OsString| word == "help" || word == "--help" || word == "-h";
    let Some((verb, rest)) = words.split_first() else {
        return Ok(HELP.to_owned());
    };
    if asks_for_help(verb) || rest.iter().any(asks_for_help) {
        return Ok(HELP.to_owned());
    }
    let verb = verb.to_string_lossy();
    if ["version", "--version", "-V"].contains(&&*verb) {
        return Ok(format!("kata-image {}\n", env!("CARGO_PKG_VERSION")));
    }
    let options = Options::parse(rest)?;
    match &*verb {
        "build" => options.build(),
        "kernel" => options.build_kernel(),
        "import" => options.import(),
        "verify" => {
            let manifest = verify(options.directory()?)?;
            Ok(format!(
                "{}: every file is as the manifest says\n",
                manifest.name
            ))
        }
        "inspect" => Ok(inspect(&verify(options.directory()?)?)),
        _ => Err(lexopt::Error::Custom(format!("there is no command {verb:?}").into()).into()),
    }
}

impl Options {
    fn build(self) -> Result<String, Failure> {
        let agent = self.agent.as_ref().ok_or_else(|| missing("--agent"))?;
        let cache = self.cache()?;
        let source = match (self.source.clone(), self.kernel.clone()) {
            (Some(_), Some(_)) => return Err(lexopt::Error::from("name one kernel").into()),
            (None, Some(kernel)) => KernelSource::File {
                kernel,
                modules: self.modules.clone(),
            },
            (source, None) => source.unwrap_or_default(),
        };
        let architecture = match self.architecture {
            Some(architecture) => architecture,
            None => Architecture::host()?,
        };
        let family = match source {
            KernelSource::Minimal => "minimal",
            KernelSource::File { .. } => "custom",
            _ => "distribution",
        };
        let output = self.output.clone();
        let output =
            output.unwrap_or_else(|| cache.images().join(format!("{family}-{architecture}")));
        let mut builder = ImageBuilder::new(agent)
            .architecture(architecture)
            .kernel(source)
            .kernel_parameters(self.parameters.clone());
        if let Some(modules) = self.modules_wanted.clone() {
            builder = builder.modules(modules);
        }
        if let Some(name) = self.name.clone() {
            builder = builder.name(name);
        }
        let shown = Shown::new(self.quiet);
        builder.build(&output, &cache, &|progress| shown.tell(&progress))?;
        Ok(format!("{}\n", output.display()))
    }

    fn build_kernel(self) -> Result<String, Failure> {
        let architecture = match self.architecture {
            Some(architecture) => architecture,
            None => Architecture::host()?,
        };
        let mut kernel = MinimalKernel::new(architecture);
        if let Some(jobs) = self.jobs {
            kernel = kernel.jobs(jobs);
        }
        if let Some(sources) = &self.sources {
            kernel = kernel.archive(sources);
        }
        if let Some(package) = &self.package {
            kernel = kernel.package(package);
        }
        let shown = Shown::new(self.quiet);
        let built = kernel.build(&self.cache()?, &|progress| shown.tell(&progress))?;
        Ok(format!("{}\n", built.kernel.display()))
    }

    fn import(self) -> Result<String, Failure> {
        let output = self.output.clone().ok_or_else(|| missing("--output"))?;
        let mut image = match (&self.release, &self.kernel) {
            (Some(directory), None) => ForeignImage::from_release(directory)?,
            (None, Some(kernel)) => ForeignImage::new(kernel),
            _ => return Err(missing("either --release or --kernel")),
        };
        if let Some(initrd) = &self.initrd {
            image = image.initramfs(initrd);
        }
        if let Some(disk) = &self.disk {
            image = image.disk(disk);
        }
        if let Some(name) = &self.name {
            image = image.name(name);
        }
        let shown = Shown::new(self.quiet);
        let image = image.kernel_parameters(self.parameters);
        image.import(&output, &|progress| shown.tell(&progress))?;
        Ok(format!("{}\n", output.display()))
    }
}

fn inspect(manifest: &Manifest) -> String {
    let mut lines = vec![
        format!("image         {}", manifest.name),
        format!("architecture  {}", manifest.architecture),
        format!("kernel        Linux {}", manifest.kernel_release),
        format!(
            "agent         {}",
            manifest.agent.as_deref().unwrap_or("foreign")
        ),
        format!(
            "virtio-mmio on the command line  {}",
            manifest.virtio_mmio_command_line
        ),
    ];
    for file in manifest.files() {
        let mib = file.size as f64 / f64::from(1 << 20);
        lines.push(format!(
            "file          {} {mib:.1} MiB {}",
            file.file, &file.sha256
        ));
    }
    if !manifest.modules.is_empty() {
        lines.push(format!("modules       {}", manifest.modules.join(" ")));
    }
    if !manifest.kernel_parameters.is_empty() {
        lines.push(format!(
            "parameters    {}",
            manifest.kernel_parameters.join(" ")
        ));
    }
    for (what, value) in &manifest.provenance {
        lines.push(format!("made from     {what} {value}"));
    }
    lines.push(String::new());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(words: &[&str]) -> Result<String, String> {
        command(&words.iter().map(Into::into).collect::<Vec<_>>()).map_err(
            |failure| match failure {
                Failure::Usage(error) => format!("usage: {error}"),
                Failure::Work(error) => format!("work: {error}"),
            },
        )
    }

    #[test]
    fn every_command_in_the_help_is_one() {
        for verb in ["build", "kernel", "import", "verify", "inspect"] {
            assert!(HELP.contains(&format!("\n  {verb} ")), "{verb}");
        }
        for words in [&[][..], &["--help"], &["build", "-h"]] {
            assert_eq!(run(words).unwrap(), HELP);
        }
        assert!(run(&["--version"]).unwrap().starts_with("kata-image 0."));
    }

    #[test]
    fn a_wrong_command_line_says_what_is_wrong() {
        for (words, expected) in [
            (&["fly"][..], "no command \"fly\""),
            (&["build"], "--agent is missing"),
            (&["build", "--wings", "2"], "no option --wings"),
            (&["build", "--kernel-odd"], "no option --kernel-odd"),
            (
                &["build", "--agent", "a", "--kernel", "k", "--kernel-minimal"],
                "name one kernel",
            ),
            (&["import", "--output", "x"], "either --release or --kernel"),
            (&["verify"], "directory is missing"),
            (&["verify", "a", "b"], "unexpected argument"),
        ] {
            let error = run(words).unwrap_err();
            assert!(
                error.starts_with("usage: ") && error.contains(expected),
                "{error}"
            );
        }
    }

    #[test]
    fn an_unknown_architecture_is_named() {
        let error = run(&["build", "--arch", "s390x"]).unwrap_err();
        assert!(error.contains("s390x"), "{error}");
    }

    #[test]
    fn a_directory_without_an_image_is_named() {
        let error = run(&["inspect", "/nonexistent"]).unwrap_err();
        assert!(error.contains("/nonexistent/manifest.json"), "{error}");
    }

    #[test]
    fn a_foreign_image_is_imported_inspected_and_verified() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name).to_str().unwrap().to_owned();
        let mut kernel = vec![0; 64];
        kernel[56..60].copy_from_slice(b"ARM\x64");
        kernel.extend(b"Linux version 6.12.1 (");
        std::fs::write(at("Image"), kernel).unwrap();
        std::fs::write(at("initrd"), b"cpio").unwrap();
        let words = [
            "import",
            "--kernel",
            &at("Image"),
            "--initrd",
            &at("initrd"),
        ];
        let rest = [
            "--output",
            &at("image"),
            "--parameters",
            "a b",
            "--name",
            "mine",
            "--quiet",
        ];
        let printed = run(&[&words[..], &rest[..]].concat()).unwrap();
        assert_eq!(printed.trim(), at("image"));
        let shown = run(&["inspect", &at("image")]).unwrap();
        for expected in [
            "mine",
            "aarch64",
            "Linux 6.12.1",
            "foreign",
            "parameters    a b",
        ] {
            assert!(shown.contains(expected), "{expected}: {shown}");
        }
        assert!(run(&["verify", &at("image")]).unwrap().contains("mine"));
    }
}
