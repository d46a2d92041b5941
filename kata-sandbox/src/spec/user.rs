//! Users by number or name.

use kata_protocol::agent::StringUser;
use oci_spec::runtime as oci;
use serde::{Deserialize, Serialize};

/// A user and group as a person writes them; names are looked up in the guest,
/// in the container's own files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GuestUser {
    user: String,
    group: String,
}

impl GuestUser {
    pub(crate) fn parse(text: &str) -> Self {
        let (user, group) = text.split_once(':').unwrap_or((text, ""));
        Self {
            user: user.to_owned(),
            group: group.to_owned(),
        }
    }

    /// Sets what is a number in the process itself.
    pub(crate) fn apply(&self, process: &mut oci::Process) {
        let mut user = oci::User::default();
        if let Ok(uid) = self.user.parse() {
            user.set_uid(uid);
        }
        if let Ok(gid) = self.group.parse() {
            user.set_gid(gid);
        }
        process.set_user(user);
    }

    /// What the agent must look up; `None` when all is said in numbers.
    pub(crate) fn to_look_up(&self) -> Option<StringUser> {
        let number = |text: &str| text.parse::<u32>().is_ok();
        if number(&self.user) && (self.group.is_empty() || number(&self.group)) {
            return None;
        }
        Some(StringUser {
            uid: self.user.clone(),
            gid: self.group.clone(),
            additional_gids: Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_into_the_process_and_names_to_the_guest() {
        let mut process = oci::Process::default();
        let user = GuestUser::parse("1000:50");
        user.apply(&mut process);
        assert_eq!((process.user().uid(), process.user().gid()), (1000, 50));
        assert_eq!(user.to_look_up(), None);
        assert_eq!(GuestUser::parse("1000").to_look_up(), None);
        let named = GuestUser::parse("www-data:1000").to_look_up().unwrap();
        assert_eq!(
            (named.uid.as_str(), named.gid.as_str()),
            ("www-data", "1000")
        );
        assert_eq!(
            GuestUser::parse("0:staff").to_look_up().unwrap().gid,
            "staff"
        );
    }
}
