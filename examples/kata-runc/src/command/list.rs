//! All containers below `--root`.

use std::fmt::Write as _;

use super::print;
use crate::cli::{Arguments, Globals};
use crate::failure::{Failure, Result};
use crate::root::Root;
use crate::state::Record;

/// The narrowest column, and the space between columns.
const NARROWEST: usize = 12;
const BETWEEN: usize = 3;

/// The command.
pub(crate) fn list(globals: &Globals, arguments: &Arguments) -> Result<u8> {
    let records = Root::open(&globals.root)?.list()?;
    if arguments.has("quiet") {
        let ids: String = records
            .iter()
            .map(|record| format!("{}\n", record.id))
            .collect();
        return print(&ids);
    }
    match arguments.text("format") {
        Some("table") => print(&table(&records)),
        Some("json") => print(&json(&records)?),
        _ => Err(Failure::new("invalid format option")),
    }
}

fn json(records: &[Record]) -> Result<String> {
    if records.is_empty() {
        return Ok("null".to_owned());
    }
    let states: Vec<_> = records
        .iter()
        .map(|record| record.state(owner(record.uid)))
        .collect();
    let json = serde_json::to_string(&states).map_err(|e| Failure::new(e.to_string()))?;
    Ok(format!("{json}\n"))
}

fn table(records: &[Record]) -> String {
    let head = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(records.iter().map(|record| {
        let state = record.state(owner(record.uid));
        [
            state.id.to_owned(),
            state.pid.to_string(),
            state.status.to_string(),
            state.bundle.display().to_string(),
            state.created.to_string(),
            state.owner,
        ]
    }));
    let width = |column: usize| {
        let longest = rows.iter().map(|row| row[column].chars().count()).max();
        (longest.unwrap_or(0) + BETWEEN).max(NARROWEST)
    };
    let widths: Vec<usize> = (0..head.len() - 1).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(text, "{cell:width$}");
        }
        let _ = writeln!(text, "{}", row[head.len() - 1]);
    }
    text
}

/// A user's name, as the host has it.
fn owner(uid: u32) -> String {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    name_of(&users, uid).unwrap_or_else(|| format!("#{uid}"))
}

fn name_of(users: &str, uid: u32) -> Option<String> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tests::record;

    #[test]
    fn the_table_has_columns_as_wide_as_what_is_in_them() {
        assert_eq!(
            table(&[]),
            "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n"
        );
        let mut record = record();
        record.bundle = "/a/long/path".into();
        let text = table(&[record]);
        let mut lines = text.lines();
        assert!(
            lines
                .next()
                .unwrap()
                .contains("BUNDLE         CREATED                OWNER")
        );
        assert!(
            lines
                .next()
                .unwrap()
                .contains("/a/long/path   1970-01-01T00:00:00Z   ")
        );
    }

    #[test]
    fn no_containers_are_null_and_some_a_list() {
        assert_eq!(json(&[]).unwrap(), "null");
        assert!(json(&[record()]).unwrap().starts_with("[{\"ociVersion\":"));
    }

    #[test]
    fn an_owner_has_a_name_or_a_number() {
        let users = "root:x:0:0:root:/root:/bin/sh\nbad\n";
        assert_eq!(name_of(users, 0).as_deref(), Some("root"));
        assert_eq!(name_of(users, 7), None);
    }
}
