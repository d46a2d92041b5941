//! What the examples share: a root file system made of one static busybox, and
//! where the guest image is.
#![forbid(unsafe_code)]

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// The guest image that the examples boot: `$KATA_GUEST_IMAGE`, else what
/// `kata-image build` makes by default.
#[must_use]
pub fn guest_image() -> PathBuf {
    std::env::var_os("KATA_GUEST_IMAGE").map_or_else(|| PathBuf::from("guest-image"), Into::into)
}

/// A root file system with busybox's programs, removed when dropped.
#[derive(Debug)]
pub struct Busybox {
    directory: TempDir,
}

impl Busybox {
    /// Makes one from `$KATA_BUSYBOX`, else `/bin/busybox`, which must be static.
    ///
    /// # Errors
    /// When there is no such file (Debian: `apt-get install busybox-static`), or
    /// the temporary directory cannot be written.
    pub fn new() -> io::Result<Self> {
        let busybox = std::env::var_os("KATA_BUSYBOX").map_or("/bin/busybox".into(), PathBuf::from);
        let directory = tempfile::Builder::new().prefix("kata-example-").tempdir()?;
        let root = directory.path().join("rootfs");
        for name in ["bin", "dev", "etc", "proc", "root", "sys", "tmp"] {
            std::fs::create_dir_all(root.join(name))?;
        }
        std::fs::copy(&busybox, root.join("bin/busybox")).map_err(|error| {
            let path = busybox.display();
            let hint = "install the package busybox-static, or name one in KATA_BUSYBOX";
            io::Error::new(error.kind(), format!("cannot copy {path}: {error}; {hint}"))
        })?;
        for program in [
            "cat", "date", "dd", "echo", "env", "free", "head", "hostname", "httpd", "id", "ip",
            "ls", "mount", "nc", "nproc", "ps", "seq", "sh", "sleep", "stty", "true", "uname",
            "uptime", "vi", "wget",
        ] {
            symlink("busybox", root.join("bin").join(program))?;
        }
        std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
        std::fs::write(root.join("etc/group"), "root:x:0:\n")?;
        Ok(Self { directory })
    }

    /// The root file system.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.directory.path().join("rootfs")
    }

    /// The directory that holds `rootfs`: an OCI bundle once `config` is written
    /// into its config.json.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn bundle(&self, config: &str) -> io::Result<&Path> {
        std::fs::write(self.directory.path().join("config.json"), config)?;
        Ok(self.directory.path())
    }
}

/// The programs in the documents, compiled so that they stay true.
#[cfg(doctest)]
mod documents {
    #[doc = include_str!("../../README.md")]
    struct Readme;

    #[doc = include_str!("../../docs/embedding.md")]
    struct EmbeddingGuide;
}
