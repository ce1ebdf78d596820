//! Erasing a person.

use super::service::Service;
use anyhow::Context as _;
use serde::Deserialize;

/// How many rows were there, and are not any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Rows of `clicks`.
    pub clicks: u64,
    /// Rows of `deltas`.
    pub deltas: u64,
}

#[derive(Deserialize)]
struct Count {
    n: u64,
}

/// Removes the rows that name one of these contacts or addresses (compared trimmed and in lower case), and the clicks that a delta of
/// theirs names; returns when they are gone from disk. Totals stay: they name nobody.
///
/// A record that is still in Kafka and not yet written comes later: forget the person there first.
///
/// # Errors
/// When ClickHouse can't be reached or refuses; then run it again.
pub async fn forget(service: &Service, contact_ids: &[String], emails: &[String]) -> anyhow::Result<Forgotten> {
    let emails: Vec<String> = emails.iter().map(|email| email.trim().to_lowercase()).collect();
    let (contacts, emails) = (array(contact_ids), array(&emails));
    let person = "has({contacts:Array(String)}, contact_id) OR has({emails:Array(String)}, email)";
    let theirs =
        format!("has({{contacts:Array(String)}}, contact_id) OR id IN (SELECT click_id FROM deltas WHERE click_id != '' AND ({person}))");
    let bound: [(&str, &str); 2] = [("contacts", &contacts), ("emails", &emails)];
    let mut forgotten = Forgotten::default();
    // Clicks first: the deltas say which they are, also when this is run again.
    for (table, rows, count) in [("clicks", theirs, &mut forgotten.clicks), ("deltas", person.to_owned(), &mut forgotten.deltas)] {
        let found: Vec<Count> = service
            .rows(&format!("SELECT count() AS n FROM {table} WHERE {rows} FORMAT JSONEachRow"), &bound)
            .await
            .with_context(|| format!("ClickHouse's table {table} can't be searched"))?;
        *count = found.first().map_or(0, |found| found.n);
        if *count > 0 {
            let delete = format!("ALTER TABLE {table} DELETE WHERE {rows}");
            service.query(&delete, &bound).await.with_context(|| format!("ClickHouse's table {table} still has them"))?;
        }
    }
    Ok(forgotten)
}

/// A list as ClickHouse reads a bound `Array(String)`.
fn array(values: &[String]) -> String {
    let quoted: Vec<String> = values.iter().map(|value| format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))).collect();
    format!("[{}]", quoted.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_stay_in_their_value() {
        assert_eq!(array(&["a'b\\".to_owned(), "c".to_owned()]), r"['a\'b\\','c']");
    }
}
