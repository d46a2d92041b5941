//! Ending as the process in the guest has ended.

use kata_sandbox::Exit;
use rustix::process::{Resource, Rlimit, setrlimit};

/// The number of `SIGKILL`.
const KILL: i32 = 9;

/// Ends this process with that status, or of that signal, so that whoever waits
/// for it sees what a parent of the process itself would see.
pub(crate) fn end(exit: Exit) -> ! {
    match exit {
        Exit::Code(code) => std::process::exit(code),
        Exit::Signal(signal) => die_of(signal),
        Exit::Oom => die_of(KILL),
        // Its machine is gone, and the process was killed with it.
        _ => die_of(KILL),
    }
}

fn die_of(signal: i32) -> ! {
    // The memory of this process is not what its owner would look at.
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let _ = setrlimit(Resource::Core, none);
    // Restores what the signal does by default, and sends it.
    drop(signal_hook::low_level::emulate_default_handler(signal));
    // It is one that kills nobody here: as a shell would tell.
    std::process::exit(128 + signal)
}
