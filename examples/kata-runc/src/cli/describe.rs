//! All commands, and what each takes. Names, values and defaults are runc 1.1's.

use super::flags::{Command, Count, Flag, Kind};
use crate::command;
use crate::proxy;

const ID_NOTE: &str = "Where \"<container-id>\" is the name of the container.";
const NEW_ID_NOTE: &str = "Where \"<container-id>\" is the name that the container is to have, which no other\n\
     container below the same --root may have.";

const BUNDLE: Flag = Flag::text(
    "bundle",
    "b",
    "path to the bundle's directory, by default the current one",
);
const CONSOLE_SOCKET: Flag = Flag::text(
    "console-socket",
    "",
    "path to an AF_UNIX socket that is sent the master end of the terminal",
);
const PID_FILE: Flag = Flag::text("pid-file", "", "file to write the process id to");
const NO_PIVOT: Flag = Flag::switch(
    "no-pivot",
    "",
    "move the root of the proxy, where it cannot be pivoted",
);
const NO_NEW_KEYRING: Flag = Flag::switch(
    "no-new-keyring",
    "",
    "accepted: keyrings of the host are not in the guest",
);
const NO_SUBREAPER: Flag = Flag::switch(
    "no-subreaper",
    "",
    "accepted: nothing is reparented to this program",
);
const PRESERVE_FDS: Flag = Flag::of(
    Kind::Number,
    "preserve-fds",
    "",
    "accepted as 0: descriptors cannot be passed into a virtual machine",
)
.with_default("0");
const DETACH: Flag = Flag::switch("detach", "d", "leave the process running, and return");
const FORMAT: Flag =
    Flag::text("format", "f", "select one of: table or json").with_default("table");

/// Where containers have their state, unless something else is said.
pub(super) const ROOT: &str = "/run/kata-runc";

/// Options before the command. The last one is `version`, which help tells of
/// itself.
pub(super) const GLOBALS: &[Flag] = &[
    Flag::switch("debug", "", "enable debug logging"),
    Flag::text(
        "log",
        "",
        "file to write messages to (default is '/dev/stderr')",
    ),
    Flag::text("log-format", "", "format of messages: text or json").with_default("text"),
    Flag::text(
        "root",
        "",
        "directory of the containers' state; it should be in a tmpfs",
    )
    .with_default(ROOT),
    Flag::text("criu", "", "accepted: there are no checkpoints").with_default("criu"),
    Flag::switch(
        "systemd-cgroup",
        "",
        "expect cgroupsPath to be \"slice:prefix:name\", where systemd runs",
    ),
    Flag::text("rootless", "", "accepted: true, false or auto").with_default("auto"),
    Flag::text(
        "config",
        "",
        "configuration file (default is '/etc/kata-runc/config.toml')",
    ),
    Flag::switch("version", "v", "print the version"),
];

/// Commands for people and engines.
pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "checkpoint",
        summary: "unsupported: checkpoint a running container",
        arguments: "<container-id>",
        notes: ID_NOTE,
        description: "Fails: a container cannot be taken out of its virtual machine.",
        flags: &[
            Flag::text("image-path", "", "accepted"),
            Flag::text("work-path", "", "accepted"),
            Flag::text("parent-path", "", "accepted"),
            Flag::switch("leave-running", "", "accepted"),
            Flag::switch("tcp-established", "", "accepted"),
            Flag::switch("ext-unix-sk", "", "accepted"),
            Flag::switch("shell-job", "", "accepted"),
            Flag::switch("lazy-pages", "", "accepted"),
            Flag::of(Kind::Number, "status-fd", "", "accepted").with_default("-1"),
            Flag::text("page-server", "", "accepted"),
            Flag::switch("file-locks", "", "accepted"),
            Flag::switch("pre-dump", "", "accepted"),
            Flag::text("manage-cgroups-mode", "", "accepted"),
            Flag::of(Kind::Texts, "empty-ns", "", "accepted"),
            Flag::switch("auto-dedup", "", "accepted"),
        ],
        count: Count::Exactly(1),
        run: command::checkpoint,
    },
    Command {
        name: "create",
        summary: "create a container",
        arguments: "<container-id>",
        notes: NEW_ID_NOTE,
        description: "Makes a container of a bundle, in a virtual machine of its own or its pod's,\n\
             up to where its program could start. What it will run is in the bundle's\n\
             config.json, under process.args.",
        flags: &[
            BUNDLE,
            CONSOLE_SOCKET,
            PID_FILE,
            NO_PIVOT,
            NO_NEW_KEYRING,
            PRESERVE_FDS,
        ],
        count: Count::Exactly(1),
        run: command::create,
    },
    Command {
        name: "delete",
        summary: "delete a container and all it holds, often used with detached containers",
        arguments: "<container-id>",
        notes: ID_NOTE,
        description: "Takes a stopped container away, and the virtual machine that was made for it.",
        flags: &[Flag::switch(
            "force",
            "f",
            "kill it with SIGKILL if it still runs",
        )],
        count: Count::Exactly(1),
        run: command::delete,
    },
    Command {
        name: "events",
        summary: "display a container's use of processors, memory and disks, and its OOM kills",
        arguments: "<container-id>",
        notes: ID_NOTE,
        description: "Prints a line of JSON for each event, and statistics at each interval.",
        flags: &[
            Flag::of(Kind::Duration, "interval", "", "time between statistics").with_default("5s"),
            Flag::switch("stats", "", "print statistics once, then exit"),
        ],
        count: Count::Exactly(1),
        run: command::events,
    },
    Command {
        name: "exec",
        summary: "execute a new process inside the container",
        arguments: "<container-id> <command> [command options]  || -p process.json <container-id>",
        notes: "Where \"<container-id>\" is the name of the container, and \"<command>\" is what to\n\
             run in it, which only \"-p\" makes unneeded.",
        description: "",
        flags: &[
            CONSOLE_SOCKET,
            Flag::text("cwd", "", "current working directory in the container"),
            Flag::of(Kind::Texts, "env", "e", "set environment variables"),
            Flag::switch("tty", "t", "allocate a pseudo-TTY"),
            Flag::text("user", "u", "UID (format: <uid>[:<gid>])"),
            Flag::of(Kind::Texts, "additional-gids", "g", "additional gids"),
            Flag::text("process", "p", "path to the process.json"),
            DETACH,
            PID_FILE,
            Flag::text("process-label", "", "SELinux label of the process"),
            Flag::text("apparmor", "", "AppArmor profile of the process"),
            Flag::switch(
                "no-new-privs",
                "",
                "keep the process from gaining privileges",
            ),
            Flag::of(Kind::Texts, "cap", "c", "add a capability to the process"),
            PRESERVE_FDS,
            Flag::of(
                Kind::Texts,
                "cgroup",
                "",
                "unsupported: run in another cgroup than the container's",
            ),
            Flag::switch("ignore-paused", "", "allow exec in a paused container"),
        ],
        count: Count::AtLeast(1),
        run: command::exec,
    },
    Command {
        name: "kill",
        summary: "send a signal (default: SIGTERM) to the container's first process",
        arguments: "<container-id> [signal]",
        notes: "Where \"<container-id>\" is the name of the container, and \"[signal]\" a signal by\n\
             name or number.\n\nEXAMPLE:\n\n       # {NAME} kill ubuntu01 KILL",
        description: "",
        flags: &[Flag::switch(
            "all",
            "a",
            "send the signal to all processes inside the container",
        )],
        count: Count::AtLeast(1),
        run: command::kill,
    },
    Command {
        name: "list",
        summary: "list the containers below the given root",
        arguments: "",
        notes: "Where the given root is that of the global option \"--root\".",
        description: "",
        flags: &[
            FORMAT,
            Flag::switch("quiet", "q", "display only container IDs"),
        ],
        count: Count::Exactly(0),
        run: command::list,
    },
    Command {
        name: "pause",
        summary: "suspend all processes inside the container",
        arguments: "<container-id>",
        notes: ID_NOTE,
        description: "",
        flags: &[],
        count: Count::Exactly(1),
        run: command::pause,
    },
    Command {
        name: "ps",
        summary: "display the processes running inside a container",
        arguments: "<container-id> [ps options]",
        notes: ID_NOTE,
        description: "The table shows the guest's processes, with their ids there; the format json is\n\
             for callers that know the host's, and has the one that stands for the container.\n\
             Options of ps(1) choose nothing: the host's ps cannot see into a guest.",
        flags: &[FORMAT],
        count: Count::AtLeast(1),
        run: command::ps,
    },
    Command {
        name: "restore",
        summary: "unsupported: restore a container from a checkpoint",
        arguments: "<container-id>",
        notes: ID_NOTE,
        description: "Fails: there are no checkpoints of containers in virtual machines.",
        flags: &[
            CONSOLE_SOCKET,
            Flag::text("image-path", "", "accepted"),
            Flag::text("work-path", "", "accepted"),
            Flag::switch("tcp-established", "", "accepted"),
            Flag::switch("ext-unix-sk", "", "accepted"),
            Flag::switch("shell-job", "", "accepted"),
            Flag::switch("file-locks", "", "accepted"),
            Flag::text("manage-cgroups-mode", "", "accepted"),
            BUNDLE,
            DETACH,
            PID_FILE,
            NO_SUBREAPER,
            NO_PIVOT,
            Flag::of(Kind::Texts, "empty-ns", "", "accepted"),
            Flag::switch("auto-dedup", "", "accepted"),
            Flag::switch("lazy-pages", "", "accepted"),
            Flag::text("lsm-profile", "", "accepted"),
            Flag::text("lsm-mount-context", "", "accepted"),
        ],
        count: Count::Exactly(1),
        run: command::restore,
    },
    Command {
        name: "resume",
        summary: "resume all processes that have been paused",
        arguments: "<container-id>",
        notes: ID_NOTE,
        description: "",
        flags: &[],
        count: Count::Exactly(1),
        run: command::resume,
    },
    Command {
        name: "run",
        summary: "create and run a container",
        arguments: "<container-id>",
        notes: NEW_ID_NOTE,
        description: "Creates a container, starts its program, and unless it is to be left running,\n\
             waits for its end and takes it away.",
        flags: &[
            BUNDLE,
            CONSOLE_SOCKET,
            DETACH,
            Flag::switch("keep", "", "do not delete the container after it exits"),
            PID_FILE,
            NO_SUBREAPER,
            NO_PIVOT,
            NO_NEW_KEYRING,
            PRESERVE_FDS,
        ],
        count: Count::Exactly(1),
        run: command::run,
    },
    Command {
        name: "spec",
        summary: "create a new specification file",
        arguments: "[arguments...]",
        notes: "",
        description: "Writes a \"config.json\" to begin with: it runs \"sh\" in \"rootfs\". Edit\n\
             process.args to run something else.",
        flags: &[
            Flag::text("bundle", "b", "path to the bundle's directory"),
            Flag::switch("rootless", "", "one for a user without privileges"),
        ],
        count: Count::Exactly(0),
        run: command::spec,
    },
    Command {
        name: "start",
        summary: "execute the program of a created container",
        arguments: "<container-id>",
        notes: ID_NOTE,
        description: "",
        flags: &[],
        count: Count::Exactly(1),
        run: command::start,
    },
    Command {
        name: "state",
        summary: "output the state of a container",
        arguments: "<container-id>",
        notes: ID_NOTE,
        description: "Prints the container's state as the OCI runtime specification has it.",
        flags: &[],
        count: Count::Exactly(1),
        run: command::state,
    },
    Command {
        name: "update",
        summary: "update container resource constraints",
        arguments: "<container-id>",
        notes: ID_NOTE,
        description: "",
        flags: &[
            Flag::text(
                "resources",
                "r",
                "file with linux.resources as in config.json, or '-' for the standard input;\n\
                 \x20                              other options are ignored then",
            ),
            Flag::of(
                Kind::Number,
                "blkio-weight",
                "",
                "weight of block I/O, from 10 to 1000",
            )
            .with_default("0"),
            Flag::text("cpu-period", "", "CFS period in microseconds"),
            Flag::text("cpu-quota", "", "CFS quota in microseconds per period"),
            Flag::text("cpu-share", "", "weight against other containers"),
            Flag::text("cpu-rt-period", "", "real-time period in microseconds"),
            Flag::text("cpu-rt-runtime", "", "real-time quota in microseconds"),
            Flag::text("cpuset-cpus", "", "processors to use"),
            Flag::text("cpuset-mems", "", "memory nodes to use"),
            Flag::text("memory", "", "memory limit (in bytes)"),
            Flag::text("memory-reservation", "", "soft memory limit (in bytes)"),
            Flag::text(
                "memory-swap",
                "",
                "memory and swap together; '-1' for no limit",
            ),
            Flag::of(
                Kind::Number,
                "pids-limit",
                "",
                "most processes in the container",
            )
            .with_default("0"),
            Flag::text("l3-cache-schema", "", "unsupported: Intel RDT/CAT"),
            Flag::text("mem-bw-schema", "", "unsupported: Intel RDT/MBA"),
        ],
        count: Count::Exactly(1),
        run: command::update,
    },
    Command {
        name: "features",
        summary: "show the enabled features",
        arguments: "[arguments...]",
        notes: "",
        description: "Prints what can be had, as the OCI runtime specification's features document.",
        flags: &[],
        count: Count::Exactly(0),
        run: command::features,
    },
];

/// What this program calls itself for.
pub(super) const HIDDEN: &[Command] = &[
    Command {
        name: "proxy",
        summary: "stand for a process in a guest",
        arguments: "<descriptor> [what it stands for...]",
        notes: "",
        description: "",
        flags: &[],
        count: Count::AtLeast(1),
        run: proxy::run,
    },
    Command {
        name: crate::client::SUPERVISOR,
        summary: "keep a sandbox",
        arguments: "",
        notes: "",
        description: "",
        flags: &[],
        count: Count::Exactly(0),
        run: command::supervisor,
    },
];
