//! The command line.

use std::cell::Cell;
use std::error::Error as _;
use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use kata_image::{
    Architecture, Cache, Error, ForeignImage, ImageBuilder, KernelSource, Manifest, ManifestError,
    MinimalKernel, Progress, UnknownArchitecture, verify,
};
use lexopt::{Arg, Parser, ValueExt as _};

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
      --sources FILE           a tar archive, in place of the package's
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

/// Why a command was not carried out.
enum Failure {
    /// The command line is wrong.
    Usage(lexopt::Error),
    /// The work failed.
    Work(Error),
}

impl From<lexopt::Error> for Failure {
    fn from(error: lexopt::Error) -> Self {
        Self::Usage(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Work(error)
    }
}

impl From<ManifestError> for Failure {
    fn from(error: ManifestError) -> Self {
        Self::Work(error.into())
    }
}

impl From<UnknownArchitecture> for Failure {
    fn from(error: UnknownArchitecture) -> Self {
        Self::Work(error.into())
    }
}

/// All that the command line may say.
#[derive(Default)]
struct Options {
    agent: Option<PathBuf>,
    output: Option<PathBuf>,
    architecture: Option<Architecture>,
    name: Option<String>,
    modules_wanted: Option<Vec<String>>,
    parameters: Vec<String>,
    source: Option<KernelSource>,
    kernel: Option<PathBuf>,
    modules: Option<PathBuf>,
    sources: Option<PathBuf>,
    jobs: Option<usize>,
    release: Option<PathBuf>,
    initrd: Option<PathBuf>,
    disk: Option<PathBuf>,
    cache: Option<PathBuf>,
    quiet: bool,
    directory: Option<PathBuf>,
}

/// Runs the program on its own command line.
pub(crate) fn run() -> ExitCode {
    match command(std::env::args_os().skip(1).collect()) {
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
fn command(mut words: Vec<OsString>) -> Result<String, Failure> {
    let verb = if words.is_empty() {
        OsString::from("help")
    } else {
        words.remove(0)
    };
    let verb = verb.to_string_lossy();
    if ["help", "--help", "-h"].contains(&&*verb) {
        return Ok(HELP.to_owned());
    }
    if ["version", "--version", "-V"].contains(&&*verb) {
        return Ok(format!("kata-image {}\n", env!("CARGO_PKG_VERSION")));
    }
    let options = Options::parse(words)?;
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
    fn parse(words: Vec<OsString>) -> Result<Self, Failure> {
        let mut parser = Parser::from_args(words);
        let mut options = Self::default();
        while let Some(argument) = parser.next()? {
            let is_source = matches!(&argument, Arg::Long(name) if name.starts_with("kernel-"));
            match argument {
                Arg::Long("help") | Arg::Short('h') => {
                    return Err(lexopt::Error::Custom("help is a command".into()).into());
                }
                Arg::Long(name) if is_source => {
                    let name = name.to_owned();
                    let value = parser
                        .optional_value()
                        .map(|value| value.string())
                        .transpose()?;
                    options.source = Some(source(&name, value)?);
                }
                Arg::Long("arch") => {
                    let name = parser.value()?.string()?;
                    options.architecture = Some(name.parse::<Architecture>()?);
                }
                Arg::Long("quiet") => options.quiet = true,
                Arg::Long("jobs") => options.jobs = Some(parser.value()?.parse()?),
                Arg::Long("name") => options.name = Some(parser.value()?.string()?),
                Arg::Long("modules-wanted") => {
                    let list = parser.value()?.string()?;
                    options.modules_wanted = Some(words_of(&list, ','));
                }
                Arg::Long("parameters") => {
                    options.parameters = words_of(&parser.value()?.string()?, ' ');
                }
                Arg::Long(name) => {
                    let name = name.to_owned();
                    let path = options.path(&name).ok_or_else(|| unknown(&name))?;
                    *path = Some(parser.value()?.into());
                }
                Arg::Value(value) if options.directory.is_none() => {
                    options.directory = Some(value.into());
                }
                other => return Err(other.unexpected().into()),
            }
        }
        Ok(options)
    }

    /// The options that are paths.
    fn path(&mut self, name: &str) -> Option<&mut Option<PathBuf>> {
        Some(match name {
            "agent" => &mut self.agent,
            "output" => &mut self.output,
            "kernel" => &mut self.kernel,
            "modules" => &mut self.modules,
            "sources" => &mut self.sources,
            "release" => &mut self.release,
            "initrd" => &mut self.initrd,
            "disk" => &mut self.disk,
            "cache" => &mut self.cache,
            _ => return None,
        })
    }

    fn directory(&self) -> Result<&PathBuf, Failure> {
        self.directory
            .as_ref()
            .ok_or_else(|| missing("the image's directory"))
    }

    fn cache(&self) -> Result<Cache, Failure> {
        let of = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let default = || {
            let base = of("XDG_CACHE_HOME").map(PathBuf::from);
            let base = base.or_else(|| Some(PathBuf::from(of("HOME")?).join(".cache")));
            Some(base?.join("kata-sandbox"))
        };
        let directory = self.cache.clone().or_else(default);
        let directory = directory.ok_or_else(|| missing("--cache, as HOME is not set"))?;
        Ok(Cache::open(directory)?)
    }

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
            kernel = kernel.sources(sources);
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

fn source(option: &str, value: Option<String>) -> Result<KernelSource, Failure> {
    match option {
        "kernel-installed" => Ok(KernelSource::Installed { release: value }),
        "kernel-package" => Ok(KernelSource::Package { name: value }),
        "kernel-minimal" if value.is_none() => Ok(KernelSource::Minimal),
        _ => Err(unknown(option)),
    }
}

fn unknown(option: &str) -> Failure {
    lexopt::Error::Custom(format!("there is no option --{option}").into()).into()
}

fn missing(what: &str) -> Failure {
    lexopt::Error::Custom(format!("{what} is missing").into()).into()
}

fn words_of(list: &str, separator: char) -> Vec<String> {
    let words = list
        .split(separator)
        .map(str::trim)
        .filter(|word| !word.is_empty());
    words.map(Into::into).collect()
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

/// Shows progress on standard error: steps on lines of their own, counts in
/// place on a terminal and now and then elsewhere.
struct Shown {
    quiet: bool,
    is_terminal: bool,
    begun: Instant,
    counted: Cell<Option<Instant>>,
}

/// How often a count is shown where it cannot be shown in place.
const COUNT_INTERVAL: Duration = Duration::from_secs(15);

impl Shown {
    fn new(quiet: bool) -> Self {
        let is_terminal = io::stderr().is_terminal();
        Self {
            quiet,
            is_terminal,
            begun: Instant::now(),
            counted: Cell::new(None),
        }
    }

    fn tell(&self, progress: &Progress) {
        if self.quiet {
            return;
        }
        let seconds = self.begun.elapsed().as_secs();
        match progress {
            Progress::Count { .. } if self.is_terminal => {
                eprint!("\r  [{seconds:>3} s] {progress} ");
                self.counted.set(Some(Instant::now()));
            }
            Progress::Count { .. } => {
                let is_due = |at: Instant| at.elapsed() >= COUNT_INTERVAL;
                if self.counted.get().is_none_or(is_due) {
                    eprintln!("  [{seconds:>3} s] {progress}");
                    self.counted.set(Some(Instant::now()));
                }
            }
            _ => {
                if self.is_terminal && self.counted.take().is_some() {
                    eprintln!();
                }
                eprintln!("  [{seconds:>3} s] {progress}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(words: &[&str]) -> Result<String, String> {
        command(words.iter().map(Into::into).collect()).map_err(|failure| match failure {
            Failure::Usage(error) => format!("usage: {error}"),
            Failure::Work(error) => format!("work: {error}"),
        })
    }

    #[test]
    fn every_command_in_the_help_is_one() {
        for verb in ["build", "kernel", "import", "verify", "inspect"] {
            assert!(HELP.contains(&format!("\n  {verb} ")), "{verb}");
        }
        assert_eq!(run(&[]).unwrap(), HELP);
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
