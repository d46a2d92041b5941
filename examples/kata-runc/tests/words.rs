//! What the command line says without any container, beside what runc says.

mod common;

use common::{Ran, Runtime, runtimes};

/// Commands and options that runc 1.1 knows.
const COMMANDS: [&str; 17] = [
    "checkpoint",
    "create",
    "delete",
    "events",
    "exec",
    "kill",
    "list",
    "pause",
    "ps",
    "restore",
    "resume",
    "run",
    "spec",
    "start",
    "state",
    "update",
    "features",
];

/// What is said to each of these must be the same but for the program's name.
const SAID: &[&[&str]] = &[
    &["create"],
    &["create", "a", "b"],
    &["create", "--nope", "x"],
    &["create", "--pid-file"],
    &["create", "--preserve-fds", "abc", "x"],
    &["create", "-b", "/nonexistent", "x"],
    &["create", "--bundle=/", "x"],
    &["run", "--keep=maybe", "x"],
    &["run"],
    &["start"],
    &["start", "a", "b"],
    &["start", "nosuch"],
    &["state"],
    &["state", "nosuch"],
    &["state", "../x"],
    &["state", "--", ".."],
    &["state", "a/b"],
    &["kill", "nosuch"],
    &["kill", "nosuch", "NONSENSE"],
    &["kill"],
    &["delete", "nosuch"],
    &["delete", "--force", "nosuch"],
    &["delete", "-f", "a b"],
    &["exec"],
    &["exec", "nosuch", "true"],
    &["exec", "nosuch"],
    &["list"],
    &["list", "-q"],
    &["list", "--format", "json"],
    &["list", "-f", "xml"],
    &["ps", "nosuch"],
    &["update", "nosuch"],
    &["events", "nosuch"],
    &["events", "--interval", "abc", "x"],
    &["pause", "nosuch"],
    &["resume", "nosuch"],
    &["checkpoint", "nosuch"],
    &["features", "x"],
    &["foo"],
    &["--nope"],
    &["--log-format", "xml", "list"],
    &["--log", "/nonexistent/x", "list"],
    &["--root", "/proc/nonexistent", "list"],
];

/// The message of the last line on standard error, whatever the time.
fn message(ran: &Ran) -> String {
    let last = ran.stderr.lines().last().unwrap_or_default();
    let message = last.split_once(" level=").map_or(last, |(_, rest)| rest);
    message.replace("kata-runc", "runc")
}

fn first_line(ran: &Ran) -> String {
    ran.stdout.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn mistakes_are_told_in_runcs_words_with_runcs_statuses() {
    let [runc, kata] = &runtimes()[..] else {
        return;
    };
    for args in SAID {
        let (theirs, ours) = (runc.run(args), kata.run(args));
        assert_eq!(message(&ours), message(&theirs), "{args:?}");
        assert_eq!(ours.code, theirs.code, "{args:?}");
        let (ours, theirs) = (first_line(&ours), first_line(&theirs));
        assert_eq!(ours.replace("kata-runc", "runc"), theirs, "{args:?}");
    }
}

/// The options in a help text: `--name value, -n value`.
fn options(help: &str) -> Vec<String> {
    help.lines()
        .filter_map(|line| line.strip_prefix("   --"))
        .map(|line| line.split("  ").next().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn every_command_has_the_options_that_runcs_has() {
    let [runc, kata] = &runtimes()[..] else {
        return;
    };
    for command in COMMANDS {
        let theirs = options(&runc.ok(&[command, "--help"]));
        let ours = options(&kata.ok(&[command, "--help"]));
        assert_eq!(ours, theirs, "{command}");
    }
    let theirs = options(&runc.ok(&["--help"]));
    let mut ours = options(&kata.ok(&["--help"]));
    ours.retain(|option| option != "config value");
    assert_eq!(ours, theirs);
}

#[test]
fn a_new_specification_is_runcs() {
    let [runc, kata] = &runtimes()[..] else {
        return;
    };
    for extra in [None, Some("--rootless")] {
        let write = |runtime: &Runtime| -> serde_json::Value {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().to_str().unwrap();
            let args = ["spec", "-b", path].into_iter().chain(extra);
            runtime.ok(&args.collect::<Vec<_>>());
            let text = std::fs::read(directory.path().join("config.json")).unwrap();
            let ran = runtime.run(&["spec", "-b", path]);
            assert!(
                ran.stderr
                    .contains("File config.json exists. Remove it first")
            );
            serde_json::from_slice(&text).unwrap()
        };
        assert_eq!(write(kata), write(runc), "{extra:?}");
    }
}

#[test]
fn the_version_is_three_lines_that_callers_parse() {
    let text = Runtime::kata().ok(&["--version"]);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("kata-runc version "), "{text}");
    assert!(lines[1].starts_with("commit: "), "{text}");
    assert!(lines[2].starts_with("spec: 1."), "{text}");
}

#[test]
fn features_are_a_document_with_the_fields_that_runcs_has() {
    let keys = |text: String| -> Vec<String> {
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let linux = json["linux"].as_object().unwrap().keys();
        json.as_object()
            .unwrap()
            .keys()
            .chain(linux)
            .cloned()
            .collect()
    };
    let all: Vec<_> = runtimes()
        .iter()
        .map(|runtime| keys(runtime.ok(&["features"])))
        .collect();
    assert!(all.windows(2).all(|pair| pair[0] == pair[1]), "{all:?}");
}

#[test]
fn a_log_file_has_the_message_and_standard_error_has_it_plain() {
    for runtime in runtimes() {
        let log = runtime.directory.path().join("log");
        let path = log.to_str().unwrap();
        let ran = runtime.run(&["--log", path, "--log-format", "json", "start", "nosuch"]);
        assert_eq!(ran.stderr, "container does not exist\n", "{}", runtime.name);
        let line: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&log).unwrap()).unwrap();
        assert_eq!(line["level"], "error");
        assert_eq!(line["msg"], "container does not exist");
    }
}
