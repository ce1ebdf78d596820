//! Text for people: tables, moments, lengths of time.

use crate::model::time::{DAY, HOUR, Ms};
use unicode_width::UnicodeWidthStr as _;

/// A table whose columns are as wide as they need to be: numbers to the right, words to the left.
pub struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With its columns' names.
    pub fn new(head: &[&str]) -> Self {
        Table { head: head.iter().map(|name| (*name).to_owned()).collect(), rows: Vec::new() }
    }

    /// Adds a row; it has as many cells as there are columns.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.head.len(), "a cell for each column");
        self.rows.push(cells.into());
    }

    /// Its lines, each with `indent` before it.
    pub fn text(&self, indent: &str) -> String {
        let cells = |column: usize| self.rows.iter().filter_map(move |row| row.get(column));
        let columns = self.head.iter().enumerate();
        let widths: Vec<usize> =
            columns.clone().map(|(column, name)| cells(column).chain([name]).map(|cell| cell.width()).max().unwrap_or(0)).collect();
        // Windows such as `30d` and thresholds with a mark count as numbers.
        let number = |cell: &String| cell == "-" || cell.chars().next().is_some_and(|first| first.is_ascii_digit()) && cell.len() < 16;
        let right: Vec<bool> = columns.map(|(column, _)| cells(column).all(number)).collect();
        let mut text = String::new();
        for row in std::iter::once(&self.head).chain(&self.rows) {
            let mut line = indent.to_owned();
            for ((cell, width), right) in row.iter().zip(&widths).zip(&right) {
                let fill = " ".repeat(width - cell.width().min(*width));
                let (before, after) = if *right { (fill.as_str(), "") } else { ("", fill.as_str()) };
                line.push_str(&format!("{before}{cell}{after}  "));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// `2026-11-25 13:20`, UTC.
pub fn day_and_time(at: Ms) -> String {
    stamp(at, "%Y-%m-%d %H:%M")
}

/// `2026-11-25 13:20:07`, UTC.
pub fn to_the_second(at: Ms) -> String {
    stamp(at, "%Y-%m-%d %H:%M:%S")
}

fn stamp(at: Ms, format: &str) -> String {
    let at = jiff::Timestamp::from_millisecond(i64::try_from(at).unwrap_or(i64::MAX)).unwrap_or(jiff::Timestamp::MAX);
    at.strftime(format).to_string()
}

/// A length of time in its two largest units: `3d 4h`, `2h 5m`, `41s`, `120ms`.
pub fn length(ms: Ms) -> String {
    let units = [(DAY, "d"), (HOUR, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")];
    let place = units.iter().position(|(unit, _)| ms >= *unit).unwrap_or(units.len() - 1);
    let (unit, name) = units[place];
    let rest = units.get(place + 1).map(|(next, name)| (ms % unit / next, name)).filter(|(rest, name)| *rest > 0 && **name != "ms");
    match rest {
        Some((rest, next)) => format!("{}{name} {rest}{next}", ms / unit),
        None => format!("{}{name}", ms / unit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["window", "who"]);
        table.row(["7d".into(), "Zoë".into()]);
        table.row(["30d".into(), "漢字".into()]);
        assert_eq!(table.text(" "), " window  who\n     7d  Zoë\n    30d  漢字\n");
    }

    #[test]
    fn lengths_have_two_units() {
        for (ms, says) in
            [(0, "0ms"), (999, "999ms"), (41_500, "41s"), (7_500_000, "2h 5m"), (3 * DAY + 4 * HOUR + 1, "3d 4h"), (DAY, "1d")]
        {
            assert_eq!(length(ms), says);
        }
    }

    #[test]
    fn moments_are_utc() {
        assert_eq!(day_and_time(1_763_800_000_123), "2025-11-22 08:26");
        assert_eq!(to_the_second(1_763_800_000_123), "2025-11-22 08:26:40");
    }
}
