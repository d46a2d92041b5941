//! The architectures that images are made for.

use std::fmt;
use std::str::FromStr;

/// An architecture that guests run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// 64-bit x86.
    X86_64,
    /// 64-bit Arm.
    Aarch64,
}

/// The architecture is none that images are made for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no architecture that images are made for; choose x86_64 or aarch64")]
pub struct UnknownArchitecture(pub String);

impl Architecture {
    /// The one that this program was built for.
    ///
    /// # Errors
    /// When images are not made for it.
    pub fn host() -> Result<Self, UnknownArchitecture> {
        std::env::consts::ARCH.parse()
    }

    /// As Rust, and the manifest, spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// As Debian spells it in package names.
    #[must_use]
    pub const fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// As the kernel's build spells it.
    pub(crate) const fn kernel(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "arm64",
        }
    }

    /// The machine number in ELF headers.
    pub(crate) const fn elf_machine(self) -> u16 {
        match self {
            Self::X86_64 => 62,
            Self::Aarch64 => 183,
        }
    }

    /// The name of the kernel's file in an image.
    pub(crate) const fn kernel_file(self) -> &'static str {
        match self {
            Self::X86_64 => "vmlinux",
            Self::Aarch64 => "Image",
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Architecture {
    type Err = UnknownArchitecture;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "x86_64" | "amd64" => Ok(Self::X86_64),
            "aarch64" | "arm64" => Ok(Self::Aarch64),
            other => Err(UnknownArchitecture(other.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_an_architecture_are_known() {
        for architecture in [Architecture::X86_64, Architecture::Aarch64] {
            assert_eq!(architecture.to_string().parse(), Ok(architecture));
            assert_eq!(architecture.debian().parse(), Ok(architecture));
        }
    }

    #[test]
    fn another_architecture_is_named_in_the_error() {
        let error = "s390x".parse::<Architecture>().unwrap_err().to_string();
        assert!(
            error.contains("s390x") && error.contains("aarch64"),
            "{error}"
        );
    }
}
