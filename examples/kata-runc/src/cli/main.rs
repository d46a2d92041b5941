//! From words to a command's exit status.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use super::describe::{COMMANDS, GLOBALS, HIDDEN, ROOT};
use super::flags::{Arguments, Command, Count};
use super::help;
use super::parse::{Parsed, parse};
use crate::failure::{Failure, NO_SUCH_COMMAND, Result};
use crate::logging::{self, Format};

/// What the program calls itself.
pub(crate) const NAME: &str = "kata-runc";
/// The version of the OCI runtime specification that is implemented.
pub(crate) const OCI_VERSION: &str = "1.2.0";

/// What holds for every command.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Globals {
    /// The directory with a directory for each container.
    pub(crate) root: PathBuf,
    /// Where messages go; `None` is standard error.
    pub(crate) log: Option<PathBuf>,
    pub(crate) log_format: Format,
    pub(crate) debug: bool,
    /// A configuration file, in place of the usual one.
    pub(crate) config: Option<PathBuf>,
    pub(crate) systemd_cgroup: bool,
}

/// The program.
pub(crate) fn main(words: Vec<OsString>) -> ExitCode {
    let status = run(words).unwrap_or_else(|failure| {
        logging::fatal(&failure.to_string());
        failure.status
    });
    ExitCode::from(status)
}

fn run(words: Vec<OsString>) -> Result<u8> {
    let mut arguments = match parse(GLOBALS, words) {
        Parsed::Arguments(arguments) => arguments,
        Parsed::Help => return Ok(show(&program_help())),
        Parsed::Wrong(what) => {
            show(&format!("Incorrect Usage. {what}\n\n{}", program_help()));
            return Err(Failure::new(what));
        }
    };
    if arguments.has("version") {
        return Ok(show(&version()));
    }
    let globals = globals(&arguments)?;
    logging::start(globals.log.as_deref(), globals.log_format, globals.debug)?;
    let words = std::mem::take(&mut arguments.rest);
    let mut words = words.into_iter();
    let Some(name) = words.next() else {
        return Ok(show(&program_help()));
    };
    let words: Vec<OsString> = words.collect();
    match name.to_str() {
        Some("help" | "h") => help_on(words.first()),
        Some("version") => Ok(show(&version())),
        _ => command(&globals, find(&name)?, words),
    }
}

fn find(name: &OsString) -> Result<&'static Command> {
    COMMANDS
        .iter()
        .chain(HIDDEN)
        .find(|command| name == command.name)
        .ok_or_else(|| {
            let reason = format!("No help topic for '{}'\n", name.display());
            Failure::new(reason).with_status(NO_SUCH_COMMAND)
        })
}

fn help_on(topic: Option<&OsString>) -> Result<u8> {
    let text = match topic {
        Some(name) => help::command(find(name)?),
        None => program_help(),
    };
    Ok(show(&text))
}

fn command(globals: &Globals, command: &'static Command, words: Vec<OsString>) -> Result<u8> {
    let arguments = match parse(command.flags, words) {
        Parsed::Arguments(arguments) => arguments,
        Parsed::Help => return Ok(show(&help::command(command))),
        Parsed::Wrong(what) => {
            let usage = help::command(command);
            show(&format!("Incorrect Usage: {what}\n\n{usage}"));
            return Err(Failure::new(what));
        }
    };
    check_count(command, &arguments)?;
    (command.run)(globals, &arguments)
}

fn check_count(command: &Command, arguments: &Arguments) -> Result<()> {
    let given = arguments.rest.len();
    let wanted = match command.count {
        Count::Exactly(count) if given != count => format!("exactly {count}"),
        Count::AtLeast(count) if given < count => format!("a minimum of {count}"),
        _ => return Ok(()),
    };
    show(&format!("Incorrect Usage.\n\n{}", help::command(command)));
    let name = command.name;
    Err(Failure::new(format!(
        "{NAME}: \"{name}\" requires {wanted} argument(s)"
    )))
}

fn globals(arguments: &Arguments) -> Result<Globals> {
    let log_format = match arguments.text("log-format") {
        Some("json") => Format::Json,
        Some("text") | None => Format::Text,
        Some(other) => return Err(Failure::new(format!("invalid log-format: {other}"))),
    };
    if !matches!(
        arguments.text("rootless"),
        None | Some("auto" | "true" | "false" | "1" | "0")
    ) {
        return Err(Failure::new(
            "invalid value for rootless: use true, false or auto",
        ));
    }
    let root = match (
        arguments.filled("root").unwrap_or_default(),
        own_runtime_dir(),
    ) {
        (ROOT, Some(own)) => own.join(NAME),
        (root, _) => root.into(),
    };
    let root = std::path::absolute(&root).map_err(|error| Failure::io("open", &root, &error))?;
    let log = arguments.filled("log").map(PathBuf::from);
    Ok(Globals {
        root,
        log: log.filter(|path| path.as_os_str() != "/dev/stderr"),
        log_format,
        debug: arguments.has("debug"),
        config: arguments.filled("config").map(PathBuf::from),
        systemd_cgroup: arguments.has("systemd-cgroup"),
    })
}

/// Where a user other than root has what is root's in `/run`, as runc has it.
fn own_runtime_dir() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return None;
    }
    let own = std::env::var_os("XDG_RUNTIME_DIR").filter(|own| !own.is_empty());
    own.map(PathBuf::from)
}

fn program_help() -> String {
    help::program(&version_lines(), COMMANDS, &GLOBALS[..GLOBALS.len() - 1])
}

fn version() -> String {
    format!("{NAME} version {}", version_lines())
}

fn version_lines() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let commit = option_env!("KATA_RUNC_COMMIT").unwrap_or("unknown");
    format!("{version}\ncommit: {commit}\nspec: {OCI_VERSION}\n")
}

/// Writes to standard output; that nobody reads is no failure.
fn show(text: &str) -> u8 {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    0
}
