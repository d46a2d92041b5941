//! What the command line says.

use std::ffi::OsString;
use std::path::PathBuf;

use kata_image::{Architecture, Cache, KernelSource};
use lexopt::{Arg, Parser, ValueExt as _};

use super::failure::Failure;

/// All that the command line may say.
#[derive(Default)]
pub(super) struct Options {
    pub(super) agent: Option<PathBuf>,
    pub(super) output: Option<PathBuf>,
    pub(super) architecture: Option<Architecture>,
    pub(super) name: Option<String>,
    pub(super) modules_wanted: Option<Vec<String>>,
    pub(super) parameters: Vec<String>,
    pub(super) source: Option<KernelSource>,
    pub(super) kernel: Option<PathBuf>,
    pub(super) modules: Option<PathBuf>,
    pub(super) sources: Option<PathBuf>,
    pub(super) package: Option<String>,
    pub(super) jobs: Option<usize>,
    pub(super) release: Option<PathBuf>,
    pub(super) initrd: Option<PathBuf>,
    pub(super) disk: Option<PathBuf>,
    pub(super) cache: Option<PathBuf>,
    pub(super) quiet: bool,
    pub(super) directory: Option<PathBuf>,
}

impl Options {
    pub(super) fn parse(words: &[OsString]) -> Result<Self, Failure> {
        let mut parser = Parser::from_args(words);
        let mut options = Self::default();
        while let Some(argument) = parser.next()? {
            let is_source = matches!(&argument, Arg::Long(name) if name.starts_with("kernel-"));
            match argument {
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
                Arg::Long("package") => options.package = Some(parser.value()?.string()?),
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

    pub(super) fn directory(&self) -> Result<&PathBuf, Failure> {
        self.directory
            .as_ref()
            .ok_or_else(|| missing("the image's directory"))
    }

    pub(super) fn cache(&self) -> Result<Cache, Failure> {
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

pub(super) fn missing(what: &str) -> Failure {
    lexopt::Error::Custom(format!("{what} is missing").into()).into()
}

fn words_of(list: &str, separator: char) -> Vec<String> {
    let words = list
        .split(separator)
        .map(str::trim)
        .filter(|word| !word.is_empty());
    words.map(Into::into).collect()
}
