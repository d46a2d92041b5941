//! Names of control groups, as specifications write them.

use std::path::{Component, Path, PathBuf};

use super::{CgroupError, Result};

/// The path of a group below its hierarchy's root: from a path, or from
/// systemd's `slice:prefix:name`.
pub(super) fn parse(name: &str) -> Result<PathBuf> {
    let fault = |reason| CgroupError::Path {
        path: name.to_owned(),
        reason,
    };
    let path = match name.split(':').collect::<Vec<_>>()[..] {
        [slice, prefix, unit] => {
            systemd(slice, prefix, unit).ok_or_else(|| fault("names no unit of systemd"))?
        }
        _ => PathBuf::from(name),
    };
    let mut below = PathBuf::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(part) => below.push(part),
            Component::ParentDir | Component::Prefix(_) => {
                return Err(fault("leads out of the hierarchy"));
            }
        }
    }
    if below.as_os_str().is_empty() {
        return Err(fault("is the root, which is everybody's"));
    }
    if name.contains('\0') {
        return Err(fault("contains a NUL byte"));
    }
    Ok(below)
}

/// Where systemd has a unit: `a-b.slice` is in `a.slice`, and a unit that is not
/// a slice itself is a scope (`systemd.slice(5)`).
fn systemd(slice: &str, prefix: &str, name: &str) -> Option<PathBuf> {
    let slice = if slice.is_empty() {
        "system.slice"
    } else {
        slice
    };
    let mut path = slices(slice)?;
    let plain = |part: &str| !part.is_empty() && Path::new(part).components().count() == 1;
    if !plain(name) || prefix.contains('/') {
        return None;
    }
    path.push(if name.ends_with(".slice") {
        name.to_owned()
    } else if prefix.is_empty() {
        format!("{name}.scope")
    } else {
        format!("{prefix}-{name}.scope")
    });
    Some(path)
}

fn slices(slice: &str) -> Option<PathBuf> {
    let stem = slice.strip_suffix(".slice")?;
    if stem == "-" {
        return Some(PathBuf::new());
    }
    if stem.contains('/') || stem.split('-').any(str::is_empty) {
        return None;
    }
    let mut path = PathBuf::new();
    for (at, _) in stem.match_indices('-') {
        path.push(format!("{}.slice", &stem[..at]));
    }
    path.push(slice);
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(name: &str) -> String {
        parse(name).unwrap().display().to_string()
    }

    #[test]
    fn a_path_is_below_the_root_with_or_without_a_slash() {
        assert_eq!(parsed("/pods/a"), "pods/a");
        assert_eq!(parsed("pods/./a"), "pods/a");
    }

    #[test]
    fn systemds_form_is_the_path_that_systemd_gives() {
        assert_eq!(
            parsed("kubepods-burstable-pod1.slice:cri-containerd:abc"),
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/\
             cri-containerd-abc.scope"
        );
        assert_eq!(parsed(":libpod:abc"), "system.slice/libpod-abc.scope");
        assert_eq!(parsed("-.slice::abc"), "abc.scope");
        assert_eq!(parsed("a.slice:x:b.slice"), "a.slice/b.slice");
    }

    #[test]
    fn what_leads_elsewhere_is_refused() {
        for bad in [
            "",
            "/",
            "../a",
            "/a/../../b",
            "a.slice:x:",
            "a--b.slice:x:y",
            "a:b:c",
            "a.slice:../x:y",
            "a.slice:x:../y",
            "a\0b",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
