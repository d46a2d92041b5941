//! Programs of the distribution, run with their output kept for errors.

use std::process::{Command, Stdio};

use crate::Error;

/// How much of a failed program's output is kept.
const TAIL: usize = 4000;

/// Runs `command` and returns what it printed.
///
/// # Errors
/// [`Error::ToolMissing`], naming `package`, or [`Error::ToolFailed`].
pub(crate) fn output(command: &mut Command, package: &'static str) -> Result<String, Error> {
    command.env("LC_ALL", "C").stdin(Stdio::null());
    let output = command
        .output()
        .map_err(|source| missing(command, package, source))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    Err(failed(command, output.status, &text))
}

pub(crate) fn missing(command: &Command, package: &'static str, source: std::io::Error) -> Error {
    let program = command.get_program().to_string_lossy().into_owned();
    Error::ToolMissing {
        program,
        package,
        source,
    }
}

pub(crate) fn failed(command: &Command, status: std::process::ExitStatus, text: &str) -> Error {
    let mut start = text.len().saturating_sub(TAIL);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    Error::ToolFailed {
        command: words.join(" "),
        status,
        output: text[start..].trim().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_fails_is_quoted() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo err >&2; exit 3"]);
        let error = output(&mut command, "dash").unwrap_err().to_string();
        assert!(
            error.contains("exit 3") && error.contains("out\nerr"),
            "{error}"
        );
    }

    #[test]
    fn a_program_that_is_missing_names_its_package() {
        let error = output(&mut Command::new("no-such-program"), "some-package").unwrap_err();
        assert!(
            error.to_string().contains("apt-get install some-package"),
            "{error}"
        );
    }
}
