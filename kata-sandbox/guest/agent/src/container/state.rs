//! The state of a container as hooks get it (OCI runtime specification, State).

use std::collections::BTreeMap;

use serde::Serialize;

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Creating,
    Created,
    Running,
    Stopped,
}

/// What hooks are told.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct State<'a> {
    pub(super) oci_version: &'a str,
    pub(super) id: &'a str,
    pub(super) status: Status,
    pub(super) pid: i32,
    pub(super) bundle: &'a str,
    pub(super) annotations: &'a BTreeMap<String, String>,
}

impl State<'_> {
    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers can be written as JSON")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_specifications() {
        let annotations = [("a".to_owned(), "b".to_owned())].into();
        let state = State {
            oci_version: "1.2.0",
            id: "c",
            status: Status::Creating,
            pid: 7,
            bundle: "/b",
            annotations: &annotations,
        };
        let expected = r#"{"ociVersion":"1.2.0","id":"c","status":"creating","pid":7,"#.to_owned()
            + r#""bundle":"/b","annotations":{"a":"b"}}"#;
        assert_eq!(state.to_json(), expected);
    }
}
