//! Erasing a person.

use super::service::Service;
use crate::forget::How;
use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// Whose person it is: the same id, and the same address, may be somebody else's in another account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Of<'a> {
    /// HubSpot account.
    pub portal: &'a str,
    /// The workspaces that are connected to it: clicks belong to them.
    pub workspaces: Vec<String>,
}

/// How many rows were there, and are not any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
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

#[derive(Deserialize)]
struct Address {
    email: String,
}

/// The addresses that deltas of an account name.
///
/// # Errors
/// When ClickHouse can't be reached or refuses.
pub async fn addresses(service: &Service, portal: &str) -> anyhow::Result<Vec<String>> {
    let select = "SELECT DISTINCT email FROM deltas WHERE portal = {portal:String} AND email != '' FORMAT JSONEachRow";
    let found: Vec<Address> = service.rows(select, &[("portal", portal)]).await.context("ClickHouse's table deltas can't be searched")?;
    Ok(found.into_iter().map(|found| found.email).collect())
}

/// Removes an account's rows that name one of these contacts or addresses (compared trimmed and in lower case), and the clicks that a
/// delta of theirs names; returns when they are gone from disk. Totals stay: they name nobody. With [`How::Look`] it only counts.
///
/// A record that is still in Kafka and not yet written comes later: do it again then.
///
/// # Errors
/// When ClickHouse can't be reached or refuses; then run it again.
pub async fn forget(service: &Service, of: &Of<'_>, contact_ids: &[String], emails: &[String], how: How) -> anyhow::Result<Forgotten> {
    let emails: Vec<String> = emails.iter().map(|email| email.trim().to_lowercase()).collect();
    let (contacts, emails, workspaces) = (array(contact_ids), array(&emails), array(&of.workspaces));
    let bound: [(&str, &str); 4] = [("contacts", &contacts), ("emails", &emails), ("portal", of.portal), ("workspaces", &workspaces)];
    let mut forgotten = Forgotten::default();
    // Clicks first: the deltas say which they are, also when this is run again.
    for (table, rows, count) in [("clicks", CLICKS, &mut forgotten.clicks), ("deltas", DELTAS, &mut forgotten.deltas)] {
        let found: Vec<Count> = service
            .rows(&format!("SELECT count() AS n FROM {table} WHERE {rows} FORMAT JSONEachRow"), &bound)
            .await
            .with_context(|| format!("ClickHouse's table {table} can't be searched"))?;
        *count = found.first().map_or(0, |found| found.n);
        if *count > 0 && how == How::Remove {
            let delete = format!("ALTER TABLE {table} DELETE WHERE {rows}");
            service.query(&delete, &bound).await.with_context(|| format!("ClickHouse's table {table} still has them"))?;
        }
    }
    Ok(forgotten)
}

/// Deltas of the person.
const DELTAS: &str = "portal = {portal:String} AND (has({contacts:Array(String)}, contact_id) OR has({emails:Array(String)}, email))";

/// Clicks of the person: by the id that the link named, or because one of the person's deltas says so.
const CLICKS: &str = "has({workspaces:Array(String)}, workspace) AND (has({contacts:Array(String)}, contact_id) OR id IN \
    (SELECT click_id FROM deltas WHERE click_id != '' AND portal = {portal:String} \
    AND (has({contacts:Array(String)}, contact_id) OR has({emails:Array(String)}, email))))";

/// A list as ClickHouse reads a bound `Array(String)`.
fn array(values: &[String]) -> String {
    let quoted: Vec<String> = values.iter().map(|value| format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))).collect();
    format!("[{}]", quoted.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_persons_rows_are_those_of_the_account_and_its_workspaces() {
        assert!(DELTAS.starts_with("portal = {portal:String} AND ("), "{DELTAS}");
        assert!(CLICKS.starts_with("has({workspaces:Array(String)}, workspace) AND ("), "{CLICKS}");
        assert!(CLICKS.contains(DELTAS), "the clicks of the same deltas: {CLICKS}");
    }

    #[test]
    fn quotes_stay_in_their_value() {
        assert_eq!(array(&["a'b\\".to_owned(), "c".to_owned()]), r"['a\'b\\','c']");
    }
}
