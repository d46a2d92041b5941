//! What help says, in the form of runc's.

use std::fmt::Write as _;

use super::NAME;
use super::flags::{Command, Flag, Kind};

/// The help of the program.
pub(super) fn program(version: &str, commands: &[Command], globals: &[Flag]) -> String {
    let mut text = format!(
        "NAME:\n   {NAME} - OCI containers in virtual machines, with runc's command line\n\n\
         {NAME} runs containers that are packaged as OCI bundles, each in a virtual\n\
         machine; containers of one pod share theirs. Whatever drives runc can drive it.\n\n\
         A bundle is a directory with a specification named \"config.json\" and a root\n\
         filesystem. To run one:\n\n    # {NAME} run [ -b bundle ] <container-id>\n\n\
         The id is yours to choose, and unique among the containers of one --root. The\n\
         bundle is the current directory unless -b names another.\n\n\
         USAGE:\n   {NAME} [global options] command [command options] [arguments...]\n\n\
         VERSION:\n   {}\n\nCOMMANDS:\n",
        version.trim_end()
    );
    let mut rows: Vec<(String, &str)> = commands
        .iter()
        .map(|command| (command.name.to_owned(), command.summary))
        .collect();
    rows.push((
        "help, h".to_owned(),
        "Shows a list of commands or help for one command",
    ));
    table(&mut text, &rows);
    text.push_str("\nGLOBAL OPTIONS:\n");
    let mut rows: Vec<(String, String)> = globals.iter().map(row).collect();
    rows.push(("--help, -h".to_owned(), "show help".to_owned()));
    rows.push(("--version, -v".to_owned(), "print the version".to_owned()));
    table(&mut text, &rows);
    text
}

/// The help of one command.
pub(super) fn command(command: &Command) -> String {
    let Command { name, summary, .. } = command;
    let mut text = format!("NAME:\n   {NAME} {name} - {summary}\n\nUSAGE:\n   {NAME} {name}");
    if !command.flags.is_empty() {
        text.push_str(" [command options]");
    }
    let arguments = command.arguments.replace("{NAME}", NAME);
    let _ = writeln!(text, " {arguments}");
    if !command.notes.is_empty() {
        let notes = command.notes.replace("{NAME}", NAME);
        let _ = write!(text, "\n{notes}\n");
    }
    if !command.description.is_empty() {
        let description = command.description.replace("{NAME}", NAME);
        let _ = write!(text, "\nDESCRIPTION:\n   {description}\n");
    }
    if !command.flags.is_empty() {
        text.push_str("\nOPTIONS:\n");
        let rows: Vec<(String, String)> = command.flags.iter().map(row).collect();
        table(&mut text, &rows);
        text.push_str("   \n");
    }
    text
}

fn table(text: &mut String, rows: &[(String, impl AsRef<str>)]) {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, about) in rows {
        let _ = writeln!(text, "   {name:width$}  {}", about.as_ref());
    }
}

fn row(flag: &Flag) -> (String, String) {
    let value = if flag.kind == Kind::Switch {
        ""
    } else {
        " value"
    };
    let mut name = format!("--{}{value}", flag.name);
    if !flag.short.is_empty() {
        let _ = write!(name, ", -{}{value}", flag.short);
    }
    let about = match (flag.kind, flag.default) {
        (_, "") => flag.help.to_owned(),
        (Kind::Text, default) => format!("{} (default: \"{default}\")", flag.help),
        (_, default) => format!("{} (default: {default})", flag.help),
    };
    (name, about)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_shown_with_its_value_short_form_and_default() {
        let flag =
            Flag::of(Kind::Text, "format", "f", "one of: table or json").with_default("table");
        let (name, about) = row(&flag);
        assert_eq!(name, "--format value, -f value");
        assert_eq!(about, "one of: table or json (default: \"table\")");
        let (name, about) = row(&Flag::switch("all", "a", "every process"));
        assert_eq!(
            (name.as_str(), about.as_str()),
            ("--all, -a", "every process")
        );
    }
}
