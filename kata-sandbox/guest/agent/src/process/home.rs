//! Home directories, looked up once while the file that says them is the same.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, Stat};

use super::user;

const PASSWD: &str = "/etc/passwd";

/// The longest directory that is remembered.
const LONGEST: usize = 4096;

/// A file that changed so shortly before it was read may change once more
/// without looking different: clocks of file systems are coarse.
const SETTLED: Duration = Duration::from_secs(2);

/// A user's home directory, and the file of users that says so. It travels from
/// the copy that looked it up to the agent, which gives it to later copies.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Home {
    #[prost(uint32, tag = "1")]
    uid: u32,
    #[prost(string, tag = "2")]
    directory: String,
    /// What tells this state of the file from others; none without a file.
    #[prost(uint64, repeated, tag = "3")]
    file: Vec<u64>,
}

/// What came of looking for a home directory.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// What was known still holds.
    Known,
    /// It was looked up, and may be remembered.
    New(Home),
    /// It was looked up in a file that has just changed.
    Passing(Home),
}

impl Home {
    /// The directory, always absolute.
    pub(super) fn directory(&self) -> &str {
        &self.directory
    }

    /// Whether it is worth keeping: what a copy sends is not trusted.
    pub(super) fn is_sound(&self) -> bool {
        self.directory.starts_with('/') && self.directory.len() <= LONGEST && self.file.len() <= 7
    }

    /// Looks for a user's home in the root of the calling process, unless
    /// `known` says it.
    pub(super) fn find(uid: u32, known: Option<&Self>) -> Found {
        // Before the file is read: a change in between makes it look different.
        let status = rustix::fs::statat(CWD, PASSWD, rustix::fs::AtFlags::empty()).ok();
        let file = status.as_ref().map(identity).unwrap_or_default();
        if known.is_some_and(|known| known.uid == uid && known.file == file) {
            return Found::Known;
        }
        let directory = user::home(uid);
        let home = Self {
            uid,
            directory,
            file,
        };
        if status.as_ref().is_none_or(is_settled) {
            Found::New(home)
        } else {
            Found::Passing(home)
        }
    }
}

#[expect(
    clippy::cast_sign_loss,
    reason = "only compared with what was made likewise"
)]
fn identity(status: &Stat) -> Vec<u64> {
    vec![
        status.st_dev,
        status.st_ino,
        status.st_size as u64,
        status.st_mtime as u64,
        status.st_mtime_nsec,
        status.st_ctime as u64,
        status.st_ctime_nsec,
    ]
}

/// Whether the last change is long ago; the host's clock may differ.
fn is_settled(status: &Stat) -> bool {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let changed = Duration::from_secs(u64::try_from(status.st_ctime).unwrap_or(0));
    now.abs_diff(changed) > SETTLED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_the_same_file_and_user_is_not_looked_up_again() {
        let found = Home::find(0, None);
        let (Found::New(home) | Found::Passing(home)) = found else {
            panic!("nothing was known");
        };
        assert!(home.is_sound(), "{home:?}");
        let false_home = Home {
            directory: "/elsewhere".into(),
            ..home.clone()
        };
        assert_eq!(Home::find(0, Some(&false_home)), Found::Known);
        let other = Home {
            uid: 1,
            ..false_home.clone()
        };
        assert_ne!(Home::find(0, Some(&other)), Found::Known);
        let mut changed = false_home;
        if let Some(part) = changed.file.last_mut() {
            *part ^= 1;
            assert_ne!(Home::find(0, Some(&changed)), Found::Known);
        }
    }

    #[test]
    fn what_a_copy_sends_is_kept_only_within_bounds() {
        let home = |directory: String, parts| Home {
            uid: 0,
            directory,
            file: vec![0; parts],
        };
        assert!(home("/root".into(), 7).is_sound());
        assert!(!home("root".into(), 7).is_sound());
        assert!(!home("/root".into(), 8).is_sound());
        assert!(!home("/".repeat(LONGEST + 1), 0).is_sound());
    }
}
