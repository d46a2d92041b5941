//! Running a further process in a container.

use std::path::Path;

use kata_sandbox::oci;

use super::create::refuse_descriptors;
use super::foreground::Watch;
use super::pid_file;
use super::terminal::Console;
use crate::bundle::{self, Bundle, console_size};
use crate::cli::{Arguments, Globals};
use crate::client;
use crate::failure::{EXEC_FAILED, Failure, Result};
use crate::proxy::{Order, Proxy, Task};
use crate::root::Root;
use crate::state::{Record, Status};

/// The command.
pub(crate) fn exec(globals: &Globals, arguments: &Arguments) -> Result<u8> {
    execute(globals, arguments)
        .map_err(|failure| failure.in_context("exec failed").with_status(EXEC_FAILED))
}

fn execute(globals: &Globals, arguments: &Arguments) -> Result<u8> {
    refuse_descriptors(arguments)?;
    let record = Root::open(&globals.root)?.load(arguments.argument(0)?)?;
    check(&record, arguments.has("ignore-paused"))?;
    if !arguments.texts("cgroup").is_empty() {
        return Err(Failure::new(
            "--cgroup: a container in a virtual machine has one cgroup, the guest's",
        ));
    }
    let process = process(&record, arguments)?;
    let detach = arguments.has("detach");
    let console = Console::open(
        process.terminal().unwrap_or(false),
        detach,
        arguments.filled("console-socket"),
        console_size(Some(&process)),
    )?;
    let order = Order {
        globals: globals.clone(),
        sandbox: record.sandbox,
        container: record.guest_id,
        terminal: console.is_terminal(),
        task: Task::Exec {
            process: Box::new(process),
        },
    };
    client::block_on(run(order, console, arguments))?
}

fn check(record: &Record, ignore_paused: bool) -> Result<()> {
    match record.status() {
        Status::Created | Status::Running => Ok(()),
        Status::Paused if ignore_paused => Ok(()),
        Status::Paused => Err(Failure::new(
            "cannot exec in a paused container (use --ignore-paused to override)",
        )),
        other => Err(Failure::new(format!("cannot exec in a {other} container"))),
    }
}

async fn run(order: Order, console: Console, arguments: &Arguments) -> Result<u8> {
    // From before the process is there: a signal that comes early is its.
    let watch = match arguments.has("detach") {
        true => None,
        false => Some(Watch::begin()?),
    };
    let Task::Exec { process } = &order.task else {
        return Err(Failure::new("no process to execute"));
    };
    let mut proxy = Proxy::start(console.stdio()?, Some(process))?;
    let begun = proxy
        .order(order)
        .and_then(|()| pid_file::write(arguments.filled("pid-file"), proxy.process()?.pid));
    if let Err(failure) = begun {
        proxy.abandon();
        return Err(failure);
    }
    let own = match console {
        Console::Socket { pty, socket } => {
            pty.send_master(&socket)?;
            None
        }
        Console::Own { pty, terminal } => Some((pty, terminal)),
        Console::None => None,
    };
    proxy.settle()?;
    match watch {
        Some(watch) => watch.until_end(proxy.into_child(), own).await,
        None => Ok(0),
    }
}

/// The process that is asked for: a file's, or the container's own with other
/// arguments.
fn process(record: &Record, arguments: &Arguments) -> Result<oci::Process> {
    let process = match arguments.filled("process") {
        Some(path) => from_file(Path::new(path))?,
        None => {
            let mut process = Bundle::process(&record.bundle)?;
            change(&mut process, arguments)?;
            process
        }
    };
    bundle::check(Some(&process))?;
    Ok(process)
}

fn from_file(path: &Path) -> Result<oci::Process> {
    let bytes = std::fs::read(path).map_err(|error| Failure::io("open", path, &error))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Failure::new(format!("{}: {error}", path.display())))
}

fn change(process: &mut oci::Process, arguments: &Arguments) -> Result<()> {
    let args = arguments.arguments(1)?;
    if args.is_empty() {
        return Err(Failure::new("process args cannot be empty"));
    }
    process.set_args(Some(args));
    if let Some(cwd) = arguments.filled("cwd") {
        process.set_cwd(cwd.into());
    }
    if let Some(profile) = arguments.filled("apparmor") {
        process.set_apparmor_profile(Some(profile.to_owned()));
    }
    if let Some(label) = arguments.filled("process-label") {
        process.set_selinux_label(Some(label.to_owned()));
    }
    add_capabilities(process, arguments.texts("cap"));
    let env = process.env_mut().get_or_insert_default();
    env.extend(arguments.texts("env").iter().cloned());
    process.set_terminal(Some(arguments.has("tty")));
    if arguments.has("no-new-privs") {
        process.set_no_new_privileges(Some(true));
    }
    set_user(process, arguments)
}

fn set_user(process: &mut oci::Process, arguments: &Arguments) -> Result<()> {
    let mut user = process.user().clone();
    if let Some(text) = arguments.filled("user") {
        let (uid, gid) = match text.split_once(':') {
            Some((uid, gid)) => (uid, Some(gid)),
            None => (text, None),
        };
        user.set_uid(number(uid, "uid")?);
        if let Some(gid) = gid {
            user.set_gid(number(gid, "gid")?);
        }
    }
    let more = arguments.texts("additional-gids");
    if !more.is_empty() {
        let more = more.iter().map(|gid| number(gid, "gid"));
        let mut gids = user.additional_gids().clone().unwrap_or_default();
        gids.extend(more.collect::<Result<Vec<u32>>>()?);
        user.set_additional_gids(Some(gids));
    }
    process.set_user(user);
    Ok(())
}

fn number(text: &str, what: &str) -> Result<u32> {
    text.parse().map_err(|_| {
        Failure::new(format!(
            "parsing {text} as int for {what} failed: it is no number"
        ))
    })
}

fn add_capabilities(process: &mut oci::Process, names: &[String]) {
    if names.is_empty() {
        return;
    }
    let mut unknown = Vec::new();
    let mut known = Vec::new();
    for name in names {
        match serde_json::from_value::<oci::Capability>(name.clone().into()) {
            Ok(capability) => known.push(capability),
            Err(_) => unknown.push(name.as_str()),
        }
    }
    if !unknown.is_empty() {
        let unknown = unknown.join(" ");
        log::warn!("ignoring unknown or unavailable capabilities: [{unknown}]");
    }
    let mut all = process.capabilities().clone().unwrap_or_default();
    let with = |set: &Option<oci::Capabilities>| {
        let mut set = set.clone().unwrap_or_default();
        set.extend(known.iter().copied());
        Some(set)
    };
    let (bounding, effective, permitted, ambient) = (
        with(all.bounding()),
        with(all.effective()),
        with(all.permitted()),
        with(all.ambient()),
    );
    all.set_bounding(bounding)
        .set_effective(effective)
        .set_permitted(permitted)
        .set_ambient(ambient);
    process.set_capabilities(Some(all));
}
