//! Users by name or number, as the container's own files have them.
//!
//! `/etc/passwd` and `/etc/group` belong to the container and are not trusted:
//! only regular files are read, and no more than [`FILE_LIMIT`] of each.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;

use kata_protocol::agent::{StringUser, User};
use kata_protocol::ttrpc::Status;

use super::failure::refuse;

/// The most that is read of a file of users.
const FILE_LIMIT: u64 = 4 << 20;

/// Who a process is to be: numbers, or names to be looked up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    user: String,
    group: String,
    groups: Vec<String>,
    ids: User,
}

/// Who a process is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    /// User id.
    pub(crate) uid: u32,
    /// Primary group id.
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
}

impl Wanted {
    /// Names win over numbers: a caller that sends names could not resolve them.
    pub(crate) fn new(ids: Option<&User>, names: Option<&StringUser>) -> Self {
        let ids = ids.cloned().unwrap_or_default();
        let names = names.cloned().unwrap_or_default();
        let (mut user, mut group) = (names.uid, names.gid);
        if user.is_empty() && !ids.username.is_empty() {
            let (name, of) = ids.username.split_once(':').unwrap_or((&ids.username, ""));
            user = name.to_owned();
            if group.is_empty() {
                group = of.to_owned();
            }
        }
        Self {
            user,
            group,
            groups: names.additional_gids,
            ids,
        }
    }

    /// Looks the names up in the root file system of the calling process.
    ///
    /// # Errors
    /// When a name is in neither file and no number.
    pub(crate) fn resolve(&self) -> Result<Account, Status> {
        if self.user.is_empty() && self.group.is_empty() && self.groups.is_empty() {
            let User {
                uid,
                gid,
                ref additional_gids,
                ..
            } = self.ids;
            return Ok(Account {
                uid,
                gid,
                groups: additional_gids.clone(),
            });
        }
        self.look_up(&read("/etc/passwd"), &read("/etc/group"))
    }

    fn look_up(&self, passwd: &str, group: &str) -> Result<Account, Status> {
        let mut account = Account {
            uid: self.ids.uid,
            gid: self.ids.gid,
            groups: self.ids.additional_gids.clone(),
        };
        if !self.user.is_empty() {
            let entry = find(passwd, &self.user);
            account.uid = match (&entry, self.user.parse()) {
                (Some(entry), _) => number(entry, 2)?,
                (None, Ok(uid)) => uid,
                (None, Err(_)) => {
                    return Err(refuse(format!(
                        "unknown user {:?}: not in the container's /etc/passwd",
                        self.user
                    )));
                }
            };
            if let Some(entry) = entry {
                account.gid = number(&entry, 3)?;
                // A name, unlike a number, brings the groups it is in.
                let name = entry[0];
                account.groups.extend(memberships(group, name));
            }
        }
        if !self.group.is_empty() {
            account.gid = group_id(group, &self.group)?;
        }
        for name in &self.groups {
            account.groups.push(group_id(group, name)?);
        }
        account.groups.sort_unstable();
        account.groups.dedup();
        Ok(account)
    }
}

/// The home directory of a user, `/` if there is none.
pub(super) fn home(uid: u32) -> String {
    let passwd = read("/etc/passwd");
    let uid = uid.to_string();
    entries(&passwd)
        .find(|entry| entry.get(2) == Some(&uid.as_str()))
        .and_then(|entry| entry.get(5).copied())
        .filter(|home| home.starts_with('/'))
        .unwrap_or("/")
        .to_owned()
}

fn entries(file: &str) -> impl Iterator<Item = Vec<&str>> {
    file.lines().map(|line| line.split(':').collect())
}

/// The entry whose name, or else whose number, is `who`.
fn find<'a>(file: &'a str, who: &str) -> Option<Vec<&'a str>> {
    let by = |field: usize| entries(file).find(|e| e.len() > 2 && e.get(field) == Some(&who));
    by(0).or_else(|| by(2))
}

fn number(entry: &[&str], field: usize) -> Result<u32, Status> {
    entry
        .get(field)
        .and_then(|id| id.parse().ok())
        .ok_or_else(|| {
            refuse(format!(
                "the container's entry for {:?} has no valid id",
                entry[0]
            ))
        })
}

fn group_id(file: &str, name: &str) -> Result<u32, Status> {
    match (find(file, name), name.parse()) {
        (Some(entry), _) => number(&entry, 2),
        (None, Ok(gid)) => Ok(gid),
        (None, Err(_)) => Err(refuse(format!(
            "unknown group {name:?}: not in the container's /etc/group"
        ))),
    }
}

fn memberships(file: &str, user: &str) -> Vec<u32> {
    entries(file)
        .filter(|entry| {
            entry
                .get(3)
                .is_some_and(|list| list.split(',').any(|m| m == user))
        })
        .filter_map(|entry| entry.get(2).and_then(|gid| gid.parse().ok()))
        .collect()
}

/// The file's text; empty if there is no such regular file.
fn read(path: &str) -> String {
    let mut text = Vec::new();
    let open = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path);
    if let Ok(file) = open
        && file.metadata().is_ok_and(|metadata| metadata.is_file())
        && file.take(FILE_LIMIT).read_to_end(&mut text).is_err()
    {
        text.clear();
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1001::/home/bob:/bin/sh\nbad\n";
    const GROUP: &str = "root:x:0:\nbob:x:1001:\nwheel:x:10:alice,bob\naudio:x:29:bob\n";

    fn wanted(user: &str, group: &str, groups: &[&str]) -> Wanted {
        let names = StringUser {
            uid: user.into(),
            gid: group.into(),
            additional_gids: groups.iter().map(ToString::to_string).collect(),
        };
        Wanted::new(None, Some(&names))
    }

    #[test]
    fn a_name_brings_its_groups() {
        let account = wanted("bob", "", &[]).look_up(PASSWD, GROUP).unwrap();
        assert_eq!(
            account,
            Account {
                uid: 1000,
                gid: 1001,
                groups: vec![10, 29]
            }
        );
    }

    #[test]
    fn a_named_group_and_more_groups_win() {
        let account = wanted("bob", "audio", &["wheel", "7"])
            .look_up(PASSWD, GROUP)
            .unwrap();
        assert_eq!(
            account,
            Account {
                uid: 1000,
                gid: 29,
                groups: vec![7, 10, 29]
            }
        );
    }

    #[test]
    fn a_number_needs_no_entry() {
        let account = wanted("4711", "", &[]).look_up(PASSWD, GROUP).unwrap();
        assert_eq!(
            account,
            Account {
                uid: 4711,
                gid: 0,
                groups: vec![]
            }
        );
    }

    #[test]
    fn unknown_names_are_refused_by_name() {
        let error = wanted("eve", "", &[]).look_up(PASSWD, GROUP).unwrap_err();
        assert!(error.message.contains("unknown user \"eve\""), "{error}");
        let error = wanted("bob", "", &["club"])
            .look_up(PASSWD, GROUP)
            .unwrap_err();
        assert!(error.message.contains("unknown group \"club\""), "{error}");
    }

    #[test]
    fn numbers_alone_are_taken_as_they_are() {
        let user = User {
            uid: 5,
            gid: 6,
            additional_gids: vec![7],
            username: String::new(),
        };
        let account = Wanted::new(Some(&user), None).resolve().unwrap();
        assert_eq!(
            account,
            Account {
                uid: 5,
                gid: 6,
                groups: vec![7]
            }
        );
    }

    #[test]
    fn a_user_name_of_the_specification_is_looked_up() {
        let user = User {
            username: "bob:wheel".into(),
            ..User::default()
        };
        let account = Wanted::new(Some(&user), None)
            .look_up(PASSWD, GROUP)
            .unwrap();
        assert_eq!((account.uid, account.gid), (1000, 10));
    }

    proptest::proptest! {
        #[test]
        fn no_file_of_users_makes_it_panic(passwd in "[a-z0-9:\n]{0,80}", group: String) {
            let _ = wanted("a", "b", &["c"]).look_up(&passwd, &group);
        }
    }
}
