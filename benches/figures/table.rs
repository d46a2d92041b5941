//! The printed table.

use std::fmt;

/// One figure beside its floor.
#[derive(Debug)]
struct Row {
    name: String,
    ours: String,
    floor: String,
    /// Ours in units of the floor, and the most or the least that is wanted.
    ratio: f64,
    bar: Bar,
}

/// What a ratio is held to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bar {
    /// It must not be above.
    AtMost(f64),
    /// It must not be below.
    AtLeast(f64),
    /// It is only told.
    None,
}

impl Bar {
    fn holds(self, ratio: f64) -> bool {
        match self {
            Self::AtMost(most) => ratio <= most,
            Self::AtLeast(least) => ratio >= least,
            Self::None => true,
        }
    }
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "≤ {most:.2}"),
            Self::AtLeast(least) => write!(f, "≥ {least:.2}"),
            Self::None => f.write_str("-"),
        }
    }
}

/// The figures of a run.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
}

impl Table {
    pub(crate) fn add(
        &mut self,
        name: &'static str,
        (ours, ours_text): (f64, String),
        (floor, floor_text): (f64, String),
        bar: Bar,
    ) {
        let row = Row {
            name: name.to_owned(),
            ours: ours_text,
            floor: floor_text,
            ratio: ours / floor,
            bar,
        };
        eprintln!("measured {}: {} against {}", row.name, row.ours, row.floor);
        self.rows.push(row);
    }

    /// A figure whose ratio is a median of its own: of what was measured in pairs.
    pub(crate) fn add_pairs(
        &mut self,
        name: String,
        (ours, floor, ratio): (f64, f64, f64),
        text: fn(f64) -> String,
        bar: Bar,
    ) {
        let (ours, floor) = (text(ours), text(floor));
        eprintln!("measured {name}: {ours} against {floor}, {ratio:.3}");
        self.rows.push(Row {
            name,
            ours,
            floor,
            ratio,
            bar,
        });
    }

    /// Whether every figure meets its bar.
    pub(crate) fn holds(&self) -> bool {
        self.rows.iter().all(|row| row.bar.holds(row.ratio))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| figure | ours | floor or limit | ratio | bar | |")?;
        writeln!(f, "|---|---:|---:|---:|---:|---|")?;
        for Row {
            name,
            ours,
            floor,
            ratio,
            bar,
        } in &self.rows
        {
            let verdict = match bar {
                Bar::None => "",
                bar if bar.holds(*ratio) => "met",
                _ => "MISSED",
            };
            writeln!(
                f,
                "| {name} | {ours} | {floor} | {ratio:.2} | {bar} | {verdict} |"
            )?;
        }
        Ok(())
    }
}
