//! Finding and becoming the program of a process.
#![expect(unsafe_code, reason = "execve has no safe wrapper")]

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::ptr;
use std::sync::OnceLock;

use kata_protocol::agent::Process;
use kata_protocol::ttrpc::{Code, Status};
use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags, accessat, statat};
use rustix::io::Errno;

use super::failure::{Context as _, refuse};
use super::home::{Found, Home};

/// Where programs are looked for when the environment does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command line with its environment, in the form execve(2) takes.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    name: String,
    search: Vec<String>,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    directory: String,
    has_home: bool,
}

impl Program {
    /// Checks what a specification says.
    ///
    /// # Errors
    /// When there is no command, or a string holds a NUL byte.
    pub(crate) fn new(process: &Process) -> Result<Self, Status> {
        // Its copies know it from here.
        own_program();
        let name = process.args.first().filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| refuse("process.args: there is no command"))?;
        // Of a variable given twice the last counts, as everywhere.
        let variable = |name: &str| {
            let value = |pair: &String| {
                pair.strip_prefix(name)?
                    .strip_prefix('=')
                    .map(str::to_owned)
            };
            process.env.iter().rev().find_map(value)
        };
        let path = variable("PATH").unwrap_or_else(|| DEFAULT_PATH.to_owned());
        Ok(Self {
            name: name.clone(),
            search: path.split(':').map(str::to_owned).collect(),
            arguments: strings(&process.args, "process.args")?,
            environment: strings(&process.env, "process.env")?,
            directory: if process.cwd.is_empty() {
                "/".into()
            } else {
                process.cwd.clone()
            },
            has_home: variable("HOME").is_some_and(|home| !home.is_empty()),
        })
    }

    /// The working directory.
    pub(crate) fn directory(&self) -> &str {
        &self.directory
    }

    /// Goes to the working directory.
    ///
    /// # Errors
    /// When it does not exist in the container or is out of the user's reach.
    pub(crate) fn enter_directory(&self) -> Result<(), Status> {
        rustix::process::chdir(self.directory.as_str())
            .context(|| format!("process.cwd: enter {}", self.directory))?;
        // A descriptor of the agent's, or a link in /proc, must not have been the
        // way there. The kernel says "(unreachable)" of what is below another root.
        let outside = || {
            format!(
                "process.cwd: {} is not inside the container",
                self.directory
            )
        };
        let path = rustix::process::getcwd(Vec::new()).context(outside)?;
        if path.as_bytes().starts_with(b"/") {
            Ok(())
        } else {
            Err(Status::new(Code::PermissionDenied, outside()))
        }
    }

    /// Sets HOME from the container's users, if the environment has none, or
    /// from what is known of them. Returns what is worth knowing next time.
    pub(crate) fn complete_environment(&mut self, uid: u32, known: Option<&Home>) -> Option<Home> {
        if self.has_home {
            return None;
        }
        let (home, news) = match (Home::find(uid, known), known) {
            (Found::New(home), _) => (home.directory().to_owned(), Some(home)),
            (Found::Passing(home), _) => (home.directory().to_owned(), None),
            (Found::Known, known) => (known?.directory().to_owned(), None),
        };
        if let Ok(home) = CString::new(format!("HOME={home}")) {
            self.environment
                .retain(|pair| !pair.as_bytes().starts_with(b"HOME="));
            self.environment.push(home);
        }
        news
    }

    /// Becomes the program.
    ///
    /// # Errors
    /// That it does not: `NOT_FOUND` when there is no such executable,
    /// `PERMISSION_DENIED` when there is but it cannot be run.
    pub(crate) fn execute(&self) -> Status {
        let path = match self.find() {
            Ok(path) => path,
            Err(status) => return status,
        };
        if is_own_program(&path) {
            let message = format!("exec: {:?}: that is the agent's own program", self.name);
            return Status::new(Code::PermissionDenied, message);
        }
        let arguments = pointers(&self.arguments);
        let environment = pointers(&self.environment);
        // SAFETY: a NUL-terminated path and two arrays of NUL-terminated strings,
        // each ended by a null pointer, all alive across the call.
        unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
        let error = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO);
        self.cannot(
            error,
            Path::new(std::ffi::OsStr::from_bytes(path.to_bytes())).exists(),
        )
    }

    fn find(&self) -> Result<CString, Status> {
        if self.name.contains('/') {
            return CString::new(self.name.as_str()).map_err(|_| refuse("a NUL byte in a path"));
        }
        let mut denied = false;
        for directory in &self.search {
            let directory = if directory.is_empty() { "." } else { directory };
            let Ok(path) = CString::new(format!("{directory}/{}", self.name)) else {
                continue;
            };
            match executable(&path) {
                Ok(()) => return Ok(path),
                Err(Errno::ACCESS) => denied = true,
                Err(_) => {}
            }
        }
        let (code, what) = if denied {
            (Code::PermissionDenied, "permission denied")
        } else {
            (Code::NotFound, "executable file not found in $PATH")
        };
        Err(Status::new(code, format!("exec: {:?}: {what}", self.name)))
    }

    fn cannot(&self, error: Errno, exists: bool) -> Status {
        let name = &self.name;
        let (code, what) = match error {
            // The file is there: its interpreter (`#!` or the loader) is not.
            Errno::NOENT if exists => (
                Code::NotFound,
                "no such file or directory (its interpreter or loader)",
            ),
            Errno::NOENT | Errno::NOTDIR => (Code::NotFound, "no such file or directory"),
            Errno::ACCESS | Errno::PERM => (Code::PermissionDenied, "permission denied"),
            Errno::ISDIR => (Code::PermissionDenied, "is a directory"),
            Errno::NOEXEC => (Code::PermissionDenied, "exec format error"),
            error => return Status::new(Code::Internal, format!("exec: {name:?}: {error}")),
        };
        Status::new(code, format!("exec: {name:?}: {what}"))
    }
}

/// Whether the calling process may run the file.
fn executable(path: &CStr) -> Result<(), Errno> {
    let status = statat(CWD, path, AtFlags::empty())?;
    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
        return Err(Errno::ACCESS);
    }
    match accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS) {
        // A filter that is older than faccessat2(2), the one call that goes by
        // the effective ids. The real ones are the same by now.
        Err(Errno::NOSYS | Errno::PERM) => accessat(CWD, path, Access::EXEC_OK, AtFlags::empty()),
        answer => answer,
    }
}

/// Scripts that are each other's interpreters: the kernel takes no more.
const INTERPRETERS: usize = 5;

/// Whether a path leads to the program that this process still runs, as
/// `/proc/self/exe` does, be it as a script's interpreter. The container would
/// have it open as its own program.
fn is_own_program(path: &CStr) -> bool {
    let own = own_program();
    let mut path = path.to_owned();
    for _ in 0..INTERPRETERS {
        if own.is_some() && identity(&path) == own {
            return true;
        }
        match interpreter(&path) {
            Some(next) => path = next,
            None => return false,
        }
    }
    false
}

/// The agent's own program: looked for once, in the agent, whose `/proc` no
/// container made.
fn own_program() -> Option<(u64, u64)> {
    static OWN: OnceLock<Option<(u64, u64)>> = OnceLock::new();
    *OWN.get_or_init(|| identity(c"/proc/self/exe"))
}

fn identity(path: &CStr) -> Option<(u64, u64)> {
    let status = statat(CWD, path, AtFlags::empty()).ok()?;
    Some((status.st_dev, status.st_ino))
}

/// What the kernel would run a script by.
fn interpreter(path: &CStr) -> Option<CString> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    let mut line = [0; 256];
    let length = rustix::io::pread(&file, &mut line, 0).ok()?;
    let words = line[..length].strip_prefix(b"#!")?;
    let line = words.split(|byte| matches!(byte, b'\n' | 0)).next()?;
    let mut words = line.split(|byte| matches!(byte, b' ' | b'\t'));
    CString::new(words.find(|word| !word.is_empty())?).ok()
}

fn strings(values: &[String], what: &str) -> Result<Vec<CString>, Status> {
    let convert = |value: &String| {
        CString::new(value.as_str()).map_err(|_| refuse(format!("{what}: a NUL byte in {value:?}")))
    };
    values.iter().map(convert).collect()
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings
        .iter()
        .map(|string| string.as_ptr())
        .chain([ptr::null()])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(args: &[&str], env: &[&str]) -> Program {
        let owned = |values: &[&str]| values.iter().map(ToString::to_string).collect();
        let process = Process {
            args: owned(args),
            env: owned(env),
            ..Process::default()
        };
        Program::new(&process).unwrap()
    }

    #[test]
    fn a_program_is_looked_for_where_the_process_says() {
        let found = program(&["sh"], &["PATH=/nowhere:/bin"]).find().unwrap();
        assert_eq!(found.as_bytes(), b"/bin/sh");
        let status = program(&["sh"], &["PATH=/nowhere"]).find().unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(
            status.message,
            "exec: \"sh\": executable file not found in $PATH"
        );
    }

    #[test]
    fn a_missing_program_and_a_directory_are_told_apart() {
        let status = program(&["/no/such/program"], &[]).execute();
        assert_eq!(status.code(), Code::NotFound);
        let status = program(&["/etc"], &[]).execute();
        assert_eq!(status.code(), Code::PermissionDenied);
    }

    #[test]
    fn a_missing_interpreter_is_named_as_such() {
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().join("script");
        std::fs::write(&script, "#!/no/such/interpreter\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&script, mode).unwrap();
        let status = program(&[script.to_str().unwrap()], &[]).execute();
        assert!(status.message.contains("interpreter"), "{status}");
    }

    #[test]
    fn nothing_to_run_is_refused() {
        assert!(Program::new(&Process::default()).is_err());
        let process = Process {
            args: vec!["a\0b".into()],
            ..Process::default()
        };
        assert!(Program::new(&process).is_err());
    }

    #[test]
    fn the_last_of_two_paths_counts() {
        let found = program(&["sh"], &["PATH=/nowhere", "PATH=/bin"])
            .find()
            .unwrap();
        assert_eq!(found.as_bytes(), b"/bin/sh");
    }
}
