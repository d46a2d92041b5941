//! Ids of sandboxes and containers, and directory names made of them.

use sha2::{Digest, Sha256};

use crate::error::{Context, Result};

/// The longest id, in bytes.
pub(crate) const LONGEST: usize = 255;
/// The longest directory name: socket paths below it have 108 bytes in all.
const LONGEST_NAME: usize = 32;

/// Checks an id: `[A-Za-z0-9][A-Za-z0-9_.-]*`, at most 255 bytes.
pub(crate) fn check(id: &str, context: &Context) -> Result<()> {
    let remedy = "use letters, digits, '_', '.' and '-', beginning with a letter or digit";
    if id.is_empty() {
        return Err(context.invalid("the id is empty").with_remedy(remedy));
    }
    if id.len() > LONGEST {
        let reason = format!(
            "the id has {} bytes, and the longest has {LONGEST}",
            id.len()
        );
        return Err(context.invalid(reason));
    }
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if let Some(bad) = id.chars().find(|c| !u8::try_from(*c).is_ok_and(good)) {
        return Err(context
            .invalid(format!("the id contains {bad:?}"))
            .with_remedy(remedy));
    }
    if !id.as_bytes()[0].is_ascii_alphanumeric() {
        let reason = format!("the id begins with {:?}", &id[..1]);
        return Err(context.invalid(reason).with_remedy(remedy));
    }
    Ok(())
}

/// Shortens what an error says about an id that was refused.
pub(crate) fn shown(id: &str) -> String {
    const SHOWN: usize = 64;
    match id.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &id[..end]),
        None => id.to_owned(),
    }
}

/// The directory name for a checked id: the id itself where it is short, else
/// its beginning and a hash. `~` is in no id, so that no two ids share a name.
pub(crate) fn directory_name(id: &str) -> String {
    if id.len() <= LONGEST_NAME {
        return id.to_owned();
    }
    let hash = Sha256::digest(id.as_bytes());
    let hash: String = hash
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{}~{hash}", &id[..LONGEST_NAME - 17])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn accepted(id: &str) -> bool {
        check(id, &Context::new("start sandbox", shown(id))).is_ok()
    }

    #[test]
    fn ids_are_those_of_oci_runtimes() {
        for id in ["a", "0", "web-1.example_2", &"x".repeat(LONGEST)] {
            assert!(accepted(id), "{id}");
        }
        for id in [
            "",
            ".",
            "..",
            "-a",
            "_a",
            "a/b",
            "a b",
            "é",
            "a\0",
            &"x".repeat(300),
        ] {
            assert!(!accepted(id), "{id}");
        }
    }

    #[test]
    fn a_refused_id_is_told_with_its_fault() {
        let error = check("a/b", &Context::new("start sandbox", "a/b")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains("contains '/'"), "{error}");
        assert!(error.remedy().is_some());
    }

    #[test]
    fn long_ids_have_short_names_of_their_own() {
        let (a, b) = (
            format!("{}a", "x".repeat(200)),
            format!("{}b", "x".repeat(200)),
        );
        assert_eq!(directory_name("short"), "short");
        assert_eq!(directory_name(&a).len(), LONGEST_NAME);
        assert_ne!(directory_name(&a), directory_name(&b));
        assert_eq!(directory_name(&a), directory_name(&a));
    }

    #[test]
    fn a_long_id_is_shown_short() {
        assert_eq!(shown("abc"), "abc");
        assert_eq!(shown(&"é".repeat(300)).chars().count(), 65);
    }
}
