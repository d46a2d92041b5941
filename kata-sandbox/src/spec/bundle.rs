//! OCI bundles on disk.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use oci_spec::runtime as oci;

use super::{ContainerSpec, Rootfs};
use crate::error::{Context, ErrorKind, Result};

/// The name of the specification in a bundle.
const FILE: &str = "config.json";
/// Where capabilities are in it.
const CAPABILITIES: &str = "process.capabilities.";
/// The largest specification that is read, in bytes.
const LIMIT: u64 = 8 << 20;

pub(super) fn load(bundle: &Path) -> Result<ContainerSpec> {
    let context = Context::new("load bundle", bundle.display().to_string());
    let bundle = std::path::absolute(bundle)
        .map_err(|source| context.io("its path cannot be made absolute", source))?;
    let spec = parse(&read(&bundle, &context)?, &context)?;
    let Some(root) = spec.root() else {
        return Err(context.invalid(format!("{FILE} has no root")));
    };
    let rootfs = bundle.join(root.path());
    match std::fs::metadata(&rootfs) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => {
            let reason = format!("the root file system {} is no directory", rootfs.display());
            return Err(context.invalid(reason));
        }
        Err(source) => {
            let reason = format!("the root file system {} is not there", rootfs.display());
            return Err(context.invalid(reason).caused_by(source));
        }
    }
    Ok(ContainerSpec::from_oci(bundle, spec, Rootfs::Dir(rootfs)))
}

fn read(bundle: &Path, context: &Context) -> Result<Vec<u8>> {
    let path = bundle.join(FILE);
    let failed = |source: std::io::Error| {
        let missing = source.kind() == std::io::ErrorKind::NotFound;
        let error = context.io(format!("{} cannot be read", path.display()), source);
        if missing {
            error.with_remedy("a bundle is a directory with a config.json")
        } else {
            error
        }
    };
    let mut bytes = Vec::new();
    let file = File::open(&path).map_err(failed)?;
    file.take(LIMIT + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > LIMIT {
        let reason = format!("{} is larger than {} MiB", path.display(), LIMIT >> 20);
        return Err(context.error(ErrorKind::InvalidConfig, reason));
    }
    Ok(bytes)
}

fn parse(bytes: &[u8], context: &Context) -> Result<oci::Spec> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let broken = |path: String, source: serde_json::Error| {
        let at = format!("line {}, column {}", source.line(), source.column());
        let reason = format!("{FILE} breaks the schema at {path} ({at})");
        context.invalid(reason).caused_by(source)
    };
    let spec: oci::Spec = match serde_path_to_error::deserialize(&mut json) {
        Ok(spec) => {
            json.end()
                .map_err(|source| broken("its end".to_owned(), source))?;
            spec
        }
        Err(error) => {
            let path = error.path().to_string();
            let known = path.starts_with(CAPABILITIES).then(|| known_only(bytes));
            match known.flatten() {
                Some(spec) => spec,
                None => return Err(broken(path, error.into_inner())),
            }
        }
    };
    if !spec.version().starts_with("1.") {
        let reason = format!("{FILE} has ociVersion {:?}, not 1.x", spec.version());
        return Err(context.error(ErrorKind::Unsupported, reason));
    }
    Ok(spec)
}

/// The specification without capabilities that nothing knows, if that is all
/// that is wrong with it: what cannot be had is to be warned of, and not to fail
/// (section "Linux Process").
fn known_only(bytes: &[u8]) -> Option<oci::Spec> {
    let mut json: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    let sets = json.get_mut("process")?.get_mut("capabilities")?;
    let mut unknown = Vec::new();
    for set in sets.as_object_mut()?.values_mut() {
        set.as_array_mut()?.retain(|name| {
            let known = serde_json::from_value::<oci::Capability>(name.clone()).is_ok();
            if !known && !unknown.contains(name) {
                unknown.push(name.clone());
            }
            known
        });
    }
    let spec = serde_json::from_value(json).ok()?;
    let unknown = serde_json::Value::from(unknown);
    log::warn!("ignoring unknown or unavailable capabilities: {unknown}");
    Some(spec)
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;
    use crate::Error;

    fn bundle(json: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("rootfs")).unwrap();
        std::fs::write(directory.path().join(FILE), json).unwrap();
        directory
    }

    fn fault(json: &str) -> Error {
        load(bundle(json).path()).unwrap_err()
    }

    #[test]
    fn a_bundle_loads_with_its_root_file_system() {
        let bundle = bundle(crate::spec::DEFAULT);
        let spec = load(bundle.path()).unwrap();
        assert_eq!(spec.rootfs, Rootfs::Dir(bundle.path().join("rootfs")));
    }

    #[test]
    fn a_capability_that_nothing_knows_is_left_out_and_nothing_else_is() {
        let more = crate::spec::DEFAULT.replace("\"CAP_CHOWN\"", "\"CAP_CHOWN\", \"CAP_TEST\"");
        let loaded = load(bundle(&more).path()).unwrap();
        let expected = load(bundle(crate::spec::DEFAULT).path()).unwrap();
        assert_eq!(loaded.spec.process(), expected.spec.process());
        let other = more.replace("\"terminal\": false", "\"terminal\": 1");
        assert_ne!(other, more);
        assert_eq!(fault(&other).kind(), ErrorKind::InvalidConfig);
    }

    #[test]
    fn a_missing_config_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let error = load(directory.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(
            error.to_string().contains("config.json cannot be read"),
            "{error}"
        );
        assert!(error.remedy().is_some());
    }

    #[test]
    fn a_broken_schema_is_told_by_path_line_and_column() {
        let error = fault("{\n \"ociVersion\": \"1.0.2\",\n \"process\": {\"args\": [1]}\n}");
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        let text = error.to_string();
        assert!(text.contains("process.args[0] (line 3, column "), "{text}");
        assert!(error.source().is_some());
    }

    #[test]
    fn what_is_no_json_or_no_more_json_is_refused() {
        assert!(fault("{").to_string().contains("line 1"));
        assert!(
            fault(&format!("{}x", crate::spec::DEFAULT))
                .to_string()
                .contains("its end")
        );
    }

    #[test]
    fn another_major_version_is_refused() {
        let json = crate::spec::DEFAULT.replace("1.2.0", "2.0.0");
        assert_eq!(fault(&json).kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn a_root_file_system_that_is_not_there_is_named() {
        let json = crate::spec::DEFAULT.replace("\"path\": \"rootfs\"", "\"path\": \"nowhere\"");
        let error = fault(&json);
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(
            error.to_string().contains("nowhere is not there"),
            "{error}"
        );
        let json = json.replace("nowhere", "config.json");
        assert!(fault(&json).to_string().contains("is no directory"));
    }
}
