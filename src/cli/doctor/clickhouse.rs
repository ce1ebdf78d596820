//! Whether ClickHouse can be written to: reachable, version, clock, rights, and the tables of this build.

use super::{Finding, Level};
use crate::model::time::{Ms, now};
use crate::sinks::clickhouse::{Failure, Service, Settings, Standing, TABLES, standing};
use std::collections::BTreeSet;

/// The version that this was written for and is tested on; older ones may not know a setting.
const TESTED: (u32, u32) = (26, 7);
/// How far its clock may differ, beside the way there and back: TTLs and `now()` are its own.
const CLOCK_MS: u64 = 5_000;

/// What the user needs: the rights, for what, and whether the job can do without.
static RIGHTS: [(&str, &str, Without); 3] = [
    ("SELECT, INSERT", "write clicks and deltas", Without::Fails),
    ("CREATE DATABASE, CREATE TABLE, CREATE VIEW", "make the tables", Without::FailsUnlessMade),
    ("ALTER DELETE", "erase a person", Without::Warns),
];

/// What a missing right means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    Fails,
    FailsUnlessMade,
    Warns,
}

/// What was found, as far as it got.
#[derive(Clone, Debug, Default)]
struct Found {
    version: String,
    /// Its clock minus ours, ms.
    ahead: i64,
    /// How long it took to ask for it, ms.
    asked_for: Ms,
    /// Whether each of [`RIGHTS`] is granted.
    rights: Vec<bool>,
    standing: Option<Standing>,
    /// Tables and views that are there.
    tables: BTreeSet<String>,
}

/// Looks, and changes nothing.
pub fn look(settings: &Settings) -> Vec<Finding> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (service, runtime) = match (Service::new(settings), runtime) {
        (Ok(service), Ok(runtime)) => (service, runtime),
        (Err(error), _) => return vec![Finding::new(Level::Failed, "clickhouse", format!("{error:#}"))],
        (_, Err(error)) => return vec![Finding::new(Level::Failed, "clickhouse", error.to_string())],
    };
    match runtime.block_on(ask(&service)) {
        Ok(found) => judge(&found, settings),
        Err(failure) => {
            let advice = match failure.code() {
                Some(_) => "see that `user`, its password and its rights are those of this server".to_owned(),
                None => format!("see that {} is reachable from here", settings.url),
            };
            let says = format!("{:#}; clicks wait in their topic, {advice}", anyhow::Error::from(failure));
            vec![Finding::new(Level::Failed, "clickhouse", says)]
        }
    }
}

async fn ask(service: &Service) -> Result<Found, Failure> {
    let mut found = Found { version: service.ask_server("SELECT version()", &[]).await?, ..Found::default() };
    let before = now();
    let theirs = service.ask_server("SELECT toUnixTimestamp64Milli(now64(3))", &[]).await?;
    let after = now();
    found.asked_for = after.saturating_sub(before);
    let ours = i64::try_from(before + found.asked_for / 2).unwrap_or(i64::MAX);
    found.ahead = theirs.parse::<i64>().unwrap_or(i64::MAX).saturating_sub(ours);
    for (rights, ..) in &RIGHTS {
        // The name is letters, digits and underscores: the configuration is checked.
        let granted = service.ask_server(&format!("CHECK GRANT {rights} ON {}.*", service.database()), &[]).await;
        found.rights.push(matches!(granted.as_deref(), Ok("1")));
    }
    let tables = "SELECT name FROM system.tables WHERE database = {database:String} FORMAT TabSeparated";
    let tables = service.ask_server(tables, &[("database", service.database())]).await?;
    found.tables = tables.lines().map(str::to_owned).collect();
    found.standing = Some(standing(service).await?);
    Ok(found)
}

/// What that means for a job with these settings.
fn judge(found: &Found, settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut say = |level, what: &str, says: String| findings.push(Finding::new(level, format!("clickhouse{what}"), says));
    let version = &found.version;
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<u32>().ok()).unwrap_or(0);
    let mut numbers = version.split('.');
    let (major, minor) = (number(numbers.next()), number(numbers.next()));
    if (major, minor) < TESTED {
        let says = format!("answers, version {version}: older than {}.{}, on which this is tested; upgrade it", TESTED.0, TESTED.1);
        say(Level::Warning, "", says);
    } else {
        say(Level::Ok, "", format!("answers, version {version}"));
    }
    if found.ahead.unsigned_abs() > CLOCK_MS + found.asked_for {
        let says = format!("differs by {} s: rows are kept by its clock, and may go too early; set it by NTP", found.ahead / 1_000);
        say(Level::Warning, " clock", says);
    } else {
        say(Level::Ok, " clock", format!("within {} s", CLOCK_MS / 1_000));
    }
    let standing = found.standing.unwrap_or(Standing { has: 0, needs: 0 });
    let made = standing.has == standing.needs || !settings.migrate;
    let user = &settings.user;
    let missing: Vec<_> = RIGHTS.iter().zip(&found.rights).filter(|(_, granted)| !**granted).map(|(right, _)| right).collect();
    for (rights, to, without) in &missing {
        let level = match without {
            Without::Fails => Level::Failed,
            Without::FailsUnlessMade if !made => Level::Failed,
            _ => Level::Warning,
        };
        say(level, " rights", format!("{user} may not {to}; GRANT {rights} ON {}.* TO {user}", settings.database));
    }
    if missing.is_empty() {
        say(Level::Ok, " rights", format!("{user} may do all that is needed in {}", settings.database));
    }
    let Standing { has, needs } = standing;
    let what = " tables";
    let command = "`clickline clickhouse migrate` makes them";
    if has > needs {
        say(Level::Failed, what, format!("version {has}, this build knows {needs}: run the newer clickline"));
    } else if has < needs && settings.migrate {
        say(Level::Warning, what, format!("version {has}, this build needs {needs}; the next start of the job makes them"));
    } else if has < needs {
        say(Level::Failed, what, format!("version {has}, this build needs {needs}, and `migrate` is false; {command}"));
    } else {
        let gone: Vec<&str> = TABLES.into_iter().filter(|table| !found.tables.contains(*table)).collect();
        match gone.is_empty() {
            true => say(Level::Ok, what, format!("version {has}")),
            false => {
                let gone = gone.join(", ");
                let says = format!("version {has}, but {gone} is gone; put it back, or empty the table migrations: then {command}");
                say(Level::Failed, what, says);
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Found {
        Found {
            version: "26.7.2.1".to_owned(),
            ahead: -40,
            asked_for: 3,
            rights: vec![true; 3],
            standing: Some(Standing { has: 1, needs: 1 }),
            tables: TABLES.map(str::to_owned).into(),
        }
    }

    fn judged(found: &Found, more: &str) -> Vec<(Level, String)> {
        let settings: Settings = serde_saphyr::from_str(&format!("url: 'http://c:8123'\n{more}")).expect("YAML");
        judge(found, &settings).into_iter().map(|finding| (finding.level, finding.says)).collect()
    }

    #[test]
    fn all_is_well_when_all_is_there() {
        assert!(judged(&good(), "").iter().all(|(level, _)| *level == Level::Ok), "{:?}", judged(&good(), ""));
        let newer = Found { version: "27.1.1.1".to_owned(), ..good() };
        assert_eq!(judged(&newer, "")[0].0, Level::Ok);
    }

    #[test]
    fn what_is_wrong_is_told_with_what_mends_it() {
        let one = |found: Found, more: &str, level, part: &str| {
            let bad: Vec<_> = judged(&found, more).into_iter().filter(|(level, _)| *level != Level::Ok).collect();
            assert!(matches!(&bad[..], [(of, says)] if *of == level && says.contains(part)), "{part}: {bad:?}");
        };
        one(Found { version: "26.6.9".to_owned(), ..good() }, "", Level::Warning, "older than 26.7");
        one(Found { ahead: 5_004, ..good() }, "", Level::Warning, "differs by 5 s");
        one(Found { rights: vec![false, true, true], ..good() }, "", Level::Failed, "GRANT SELECT, INSERT ON clickline.* TO default");
        one(Found { rights: vec![true, false, true], ..good() }, "", Level::Warning, "make the tables");
        one(Found { rights: vec![true, true, false], ..good() }, "", Level::Warning, "erase a person");
        let none = || Found { standing: Some(Standing { has: 0, needs: 1 }), tables: BTreeSet::new(), ..good() };
        one(none(), "", Level::Warning, "the next start");
        one(none(), "migrate: false", Level::Failed, "`clickline clickhouse migrate` makes them");
        let bad = judged(&Found { rights: vec![true, false, true], ..none() }, "");
        assert!(bad.iter().any(|(level, says)| *level == Level::Failed && says.contains("CREATE TABLE")), "{bad:?}");
        one(Found { standing: Some(Standing { has: 2, needs: 1 }), ..good() }, "", Level::Failed, "run the newer");
        let mut gone = good();
        gone.tables.remove("batches");
        one(gone, "", Level::Failed, "batches is gone");
    }
}
