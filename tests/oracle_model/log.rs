//! Random logs whose times lie at and around every bound of the contract.

use super::TICK;
use clickline::dataflow::plan::Times;
use clickline::dataflow::rows::{Arrival, Place};
use clickline::model::time::{DAY, HOUR, Ms, tick_end};
use clickline::model::{Click, Contact, Deal, Form};
use clickline::sources::{Found, Kind, decode};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use std::collections::BTreeMap;

const START: Ms = 1_700_000_000_000;

/// How far ahead of its log time a record's own time may lie.
pub const MAX_FUTURE: Ms = 5 * 60_000;

/// A record of an input topic.
#[derive(Clone, Debug)]
pub enum Record {
    Click(Box<Click>),
    Form(Form),
    Contact(String, String, Option<Contact>),
    Deal(String, String, Option<Deal>),
    /// One of [`BAD`].
    Bad(usize),
}

/// Records that can't be read: topic, payload, and what the dead letter says of them.
pub const BAD: [(&str, &str, &str, &str); 4] = [
    ("clicks", "{", "json", "not JSON at column 1"),
    ("clicks", r#"{"v":1,"id":"a","ts":1,"workspace":"one"}"#, "field", "not a click: missing field `link` at column 41"),
    (
        "forms",
        r#"{"v":2,"id":"a","ts":1,"workspace":"one","email":"a@x"}"#,
        "version",
        "form of schema version 2; this build reads version 1",
    ),
    ("crm.deals", r#"{"v":1,"portal":"1","deal_id":"91","pipeline":"p","stage":" "}"#, "field", "deal: `stage` is empty"),
];

impl Record {
    /// Any good record of the time `ts`, of number `n`.
    pub fn random(rng: &mut StdRng, n: usize, ts: Ms) -> Self {
        match rng.random_range(0..10) {
            0..5 => Record::Click(Box::new(click(rng, n, ts))),
            5..7 => Record::Form(form(rng, n, ts)),
            7 => contact(rng),
            _ => deal(rng),
        }
    }

    /// Topic, key and value, as they are written.
    pub fn message(&self) -> (&'static str, Option<String>, Option<Vec<u8>>) {
        fn json(record: &impl serde::Serialize) -> Vec<u8> {
            serde_json::to_vec(record).expect("JSON")
        }
        match self {
            Record::Click(click) => ("clicks", None, Some(json(click))),
            Record::Form(form) => ("forms", Some(form.workspace.clone()), Some(json(form))),
            Record::Contact(portal, id, state) => ("crm.contacts", Some(format!("{portal}/{id}")), state.as_ref().map(json)),
            Record::Deal(portal, id, state) => ("crm.deals", Some(format!("{portal}/{id}")), state.as_ref().map(json)),
            Record::Bad(n) => (BAD[*n].0, None, Some(BAD[*n].1.as_bytes().to_vec())),
        }
    }

    /// The record that was written so.
    pub fn read(topic: &str, key: Option<&str>, value: Option<&[u8]>) -> Self {
        fn of<T: serde::de::DeserializeOwned>(value: &[u8]) -> T {
            serde_json::from_slice(value).expect("what was written")
        }
        let key = || {
            let (portal, id) = key.and_then(|key| key.split_once('/')).expect("portal and id");
            (portal.to_owned(), id.to_owned())
        };
        match topic {
            "clicks" => Record::Click(Box::new(of(value.expect("a click")))),
            "forms" => Record::Form(of(value.expect("a form"))),
            "crm.contacts" => Record::Contact(key().0, key().1, value.map(of)),
            _ => Record::Deal(key().0, key().1, value.map(of)),
        }
    }

    /// When it happened, for what happens.
    pub fn ts(&self) -> Option<Ms> {
        match self {
            Record::Click(click) => Some(click.ts),
            Record::Form(form) => Some(form.ts),
            Record::Contact(..) | Record::Deal(..) | Record::Bad(_) => None,
        }
    }
}

/// Records with their offsets and log times, in the log's order.
pub struct Log(pub Vec<(i64, Ms, Record)>);

fn pick<'a>(rng: &mut StdRng, of: &[&'a str]) -> &'a str {
    of.choose(rng).copied().unwrap_or_default()
}

fn maybe(rng: &mut StdRng, chance: f64, of: &[&str]) -> Option<String> {
    rng.random_bool(chance).then(|| pick(rng, of).to_owned())
}

fn one_of(rng: &mut StdRng, of: &[i64]) -> i64 {
    of.choose(rng).copied().unwrap_or_default()
}

/// A moment and its neighbours, by a millisecond and by a tick.
const AROUND: [i64; 7] = [-500, -1, 0, 0, 1, 499, 500];

impl Log {
    /// `oldest`: how old a record that comes again may be; later than that forms are no longer kept for it.
    pub fn random(rng: &mut StdRng, records: usize, oldest: Ms) -> Self {
        const H: i64 = HOUR as i64;
        const D: i64 = DAY as i64;
        // Steady traffic, a crowd, or long silences.
        let steps: &[i64] = match rng.random_range(0..4) {
            0 | 1 => &[0, 0, 0, 1, 499, 500, 501, 60_000, H, 2 * H, 12 * H, D, 2 * D],
            2 => &[0, 0, 0, 0, 1, 250, 499, 500, 501, 1_000, 60_000, H / 2, H],
            _ => &[0, 0, 1, 500, H, D, 3 * D, 5 * D, 14 * D, 20 * D],
        };
        let mut now = START;
        let mut log: Vec<(i64, Ms, Record)> = Vec::new();
        for n in 0..records {
            now += one_of(rng, steps) as Ms;
            let record = match rng.random_range(0..20) {
                1..5 => at_a_bound(rng, n, &mut now, &log).filter(|record| record.ts().is_none_or(|ts| ts + oldest >= now)),
                0 => again(rng, n, &mut now, &log, oldest),
                5 if rng.random_bool(0.3) => Some(Record::Bad(rng.random_range(0..BAD.len()))),
                _ => None,
            };
            let record = record.unwrap_or_else(|| {
                let age = one_of(rng, &[0, 0, 0, 0, 0, H, 2 * H, D, 3 * D, 14 * D, 30 * D]);
                let near = one_of(rng, &[-500, -1, 0, 0, 0, 0, 1, 250, 500, 200_000, 300_000, 300_001]);
                Record::random(rng, n, now.saturating_add_signed(near - age))
            });
            let twin = match &record {
                Record::Form(of) if rng.random_bool(0.2) => Some(Record::Form(twin(rng, n, of))),
                _ => None,
            };
            for record in [Some(record), twin].into_iter().flatten() {
                log.push((log.len() as i64, now, record));
            }
        }
        Log(log)
    }

    /// The same records in fewer ticks: here and there up to `most` in a row come at one moment, the last one's, at most `later` after their own.
    pub fn crowded(mut self, rng: &mut StdRng, most: usize, later: Ms) -> Self {
        let mut from = 0;
        while from < self.0.len() {
            let upto = self.0[from].1 + later;
            let run = self.0[from..].iter().take(rng.random_range(1..=most)).take_while(|(_, at, _)| *at <= upto).count();
            let to = from + run;
            if rng.random_bool(0.7) {
                let at = self.0[to - 1].1;
                self.0[from..to].iter_mut().for_each(|(_, of, _)| *of = at);
            }
            from = to;
        }
        self
    }

    /// Of records in the log's order.
    pub fn of(records: Vec<(Ms, Record)>) -> Self {
        Log((0..).zip(records).map(|(n, (at, record))| (n, at, record)).collect())
    }

    /// The last tick's end.
    pub fn end(&self) -> Ms {
        self.0.iter().map(|(_, at, _)| tick_end(*at, TICK)).max().unwrap_or(0)
    }

    /// What the topics keep: no clicks that were appended before one time, no forms before another, and of what a contact or
    /// deal was before the clicks some states only, among them the last: compaction comes when it likes.
    pub fn kept(&self, clicks: Ms, forms: Ms, rng: &mut StdRng) -> Log {
        let mut newer = BTreeMap::new();
        let mut kept: Vec<(i64, Ms, Record)> = Vec::new();
        for entry @ (_, at, record) in self.0.iter().rev() {
            let stays = match record {
                Record::Click(_) => *at >= clicks,
                Record::Form(_) => *at >= forms,
                Record::Contact(..) | Record::Deal(..) if *at >= clicks => true,
                Record::Contact(..) | Record::Deal(..) => {
                    let (topic, key, value) = record.message();
                    // A tombstone goes last: what it has deleted must not come back.
                    let newest = !newer.contains_key(&(topic, key.clone()));
                    let gone = newest && value.is_none() && rng.random_bool(0.5);
                    let gone = *newer.entry((topic, key)).or_insert(gone);
                    !gone && (newest || rng.random_bool(0.3))
                }
                Record::Bad(n) => match BAD[*n].0 {
                    "clicks" => *at >= clicks,
                    "forms" => *at >= forms,
                    _ => true,
                },
            };
            if stays {
                kept.push(entry.clone());
            }
        }
        kept.reverse();
        Log(kept)
    }

    pub fn clicks(&self) -> impl Iterator<Item = &Click> {
        self.0.iter().filter_map(|(_, _, record)| if let Record::Click(click) = record { Some(click.as_ref()) } else { None })
    }

    /// The records as a source finds them: bytes, read by the sources' own code.
    pub fn arrivals(&self) -> Vec<(Arrival, Ms)> {
        let times = Times::with_tick(TICK);
        let arrival = |(offset, at, record): &(i64, Ms, Record)| {
            let (topic, key, value) = record.message();
            let kind = match topic {
                "clicks" => Kind::Clicks,
                "forms" => Kind::Forms,
                "crm.contacts" => Kind::Contacts,
                _ => Kind::Deals,
            };
            let place = Place { partition: 0, offset: *offset };
            decode(Found { kind, key: key.as_deref().map(str::as_bytes), payload: value.as_deref(), place, source: topic }, *at, &times)
        };
        self.0.iter().map(arrival).collect()
    }
}

/// Something in the very tick, or beside it, in which a bound of an earlier record lies.
fn at_a_bound(rng: &mut StdRng, n: usize, now: &mut Ms, log: &[(i64, Ms, Record)]) -> Option<Record> {
    match &log[log.len().saturating_sub(20)..].choose(rng)?.2 {
        Record::Form(of) => {
            // A click that the form just names, or just does not.
            let bound = one_of(rng, &[0, 14 * DAY as i64, 14 * DAY as i64, -(3 * DAY as i64)]);
            let ts = of.ts.saturating_add_signed(bound + one_of(rng, &[-1, 0, 0, 1]));
            move_to(now, ts);
            let click = click(rng, n, ts);
            let (workspace, gclid, fbclid) = (of.workspace.clone(), of.gclid.clone(), of.fbclid.clone());
            Some(Record::Click(Box::new(Click { workspace, gclid, fbclid, contact_id: None, ..click })))
        }
        Record::Click(of) if rng.random_bool(0.6) && of.contact_id.is_none() => {
            // A form that just names the click, or just does not.
            let bound = one_of(rng, &[0, 3 * DAY as i64, 3 * DAY as i64, 3 * DAY as i64, -(14 * DAY as i64), 60_000]);
            let ts = of.ts.saturating_add_signed(bound + one_of(rng, &[-1, 0, 0, 0, 1]));
            move_to(now, ts);
            let (workspace, gclid, fbclid) = (of.workspace.clone(), of.gclid.clone(), of.fbclid.clone());
            Some(Record::Form(Form { workspace, gclid, fbclid, ..form(rng, n, ts) }))
        }
        Record::Click(of) => {
            // Another click of the same visitor: something may leave the window as it comes in.
            let bounds = [0, 2 * HOUR, DAY, 3 * DAY, 14 * DAY, 30 * DAY];
            move_to(now, (of.ts + bounds.choose(rng)?).saturating_add_signed(one_of(rng, &AROUND)));
            let click = click(rng, n, *now);
            let (workspace, link, tags, deal_id) = (of.workspace.clone(), of.link.clone(), of.tags.clone(), of.deal_id.clone());
            Some(Record::Click(Box::new(Click { workspace, link, tags, deal_id, contact_id: of.contact_id.clone(), ..click })))
        }
        Record::Contact(..) | Record::Deal(..) | Record::Bad(_) => None,
    }
}

/// Moves the clock to a moment that is not past, nor far away.
fn move_to(now: &mut Ms, moment: Ms) {
    if moment >= *now && moment < *now + 31 * DAY {
        *now = moment;
    }
}

/// Another form for the same clicks, in the same tick.
fn twin(rng: &mut StdRng, n: usize, of: &Form) -> Form {
    let ts = of.ts.saturating_add_signed(one_of(rng, &[-60_000, -1, 0, 1, 60_000]));
    let form = form(rng, n, ts);
    Form { workspace: of.workspace.clone(), gclid: of.gclid.clone(), fbclid: of.fbclid.clone(), id: format!("{}-twin", form.id), ..form }
}

/// A record that was there before: at any time, or at the very end of the dedupe horizon; at times its id only.
fn again(rng: &mut StdRng, n: usize, now: &mut Ms, log: &[(i64, Ms, Record)], oldest: Ms) -> Option<Record> {
    let (_, at, record) = log.choose(rng)?;
    let (at, mut record) = (*at, record.clone());
    if rng.random_bool(0.2) {
        // Delivered twice in a row.
        let (_, at, record) = log.last()?;
        *now = *at;
        return Some(record.clone());
    }
    if rng.random_bool(0.5) {
        move_to(now, (at + 3 * DAY).saturating_add_signed(one_of(rng, &AROUND)));
    }
    if let Record::Click(click) = &mut record
        && rng.random_bool(0.2)
    {
        // The contract takes it for the same click, or for another one after the horizon.
        **click = Click { id: click.id.clone(), workspace: click.workspace.clone(), ..self::click(rng, n, click.ts) };
    }
    record.ts().is_none_or(|ts| ts + oldest >= *now).then_some(record)
}

fn click(rng: &mut StdRng, n: usize, ts: Ms) -> Click {
    let mut tags: Vec<String> = Vec::new();
    for tag in ["x", "y", "x"] {
        if rng.random_bool(0.5) {
            tags.push(tag.to_owned());
        }
    }
    let (named, own) = (rng.random_bool(0.5), format!("own{n}"));
    Click {
        v: 1,
        // Some as the redirect server makes them, some as anybody else may.
        id: if n.is_multiple_of(3) { format!("0199f3c2-7c1e-7d2a-b0a1-{n:012x}") } else { format!("c{n}") },
        ts,
        workspace: pick(rng, &["one", "one", "two", "three"]).to_owned(),
        link: pick(rng, &["d/1", "d/2"]).to_owned(),
        title: maybe(rng, 0.8, &["T", " "]),
        destination: maybe(rng, 0.3, &["https://x/y"]),
        tags,
        deal_id: maybe(rng, 0.4, &["91", "91", "92", ""]),
        contact_id: if named { maybe(rng, 0.95, &["1", "1", "2", "3", "7"]) } else { maybe(rng, 0.1, &[""]) },
        gclid: if named { maybe(rng, 0.1, &["g"]) } else { maybe(rng, 0.7, &["g", "G", "h", "", &own, &own]) },
        fbclid: if named { None } else { maybe(rng, 0.4, &["g", "f"]) },
        utm: clickline::model::Utm {
            source: maybe(rng, 0.6, &["s1", "s2", ""]),
            medium: maybe(rng, 0.3, &["m1"]),
            campaign: maybe(rng, 0.5, &["k1", "k2", "k3"]),
            term: maybe(rng, 0.1, &["t"]),
            content: None,
        },
        referrer: maybe(rng, 0.2, &["https://r"]),
        user_agent: maybe(rng, 0.2, &["M/5.0"]),
        device: maybe(rng, 0.3, &["mobile"]),
        os: maybe(rng, 0.2, &["macOS"]),
        browser: maybe(rng, 0.2, &["Safari"]),
        country: maybe(rng, 0.3, &["FR"]),
        bot: maybe(rng, 0.1, &["head"]),
    }
}

fn form(rng: &mut StdRng, n: usize, ts: Ms) -> Form {
    Form {
        v: 1,
        id: format!("f{n}"),
        ts,
        workspace: pick(rng, &["one", "one", "two", "three"]).to_owned(),
        email: pick(rng, &["a@x", "b@x", "c@x", " A@X "]).to_owned(),
        gclid: maybe(rng, 0.7, &["g", "G", "h", "", &format!("own{n}")]),
        fbclid: maybe(rng, 0.4, &["g", "f"]),
    }
}

fn contact(rng: &mut StdRng) -> Record {
    let (portal, id) = (pick(rng, &["1", "1", "2"]).to_owned(), pick(rng, &["1", "1", "2", "3", "7"]).to_owned());
    let contact = rng.random_bool(0.85).then(|| Contact {
        v: 1,
        portal: portal.clone(),
        contact_id: id.clone(),
        email: maybe(rng, 0.7, &["a@x", "b@x", "C@x", ""]),
        additional_emails: maybe(rng, 0.3, &["a@x", "B@x ", "c@x"]).into_iter().collect(),
        merged_ids: maybe(rng, 0.4, &["1", "2", "3", "7"]).into_iter().collect(),
    });
    Record::Contact(portal, id, contact)
}

fn deal(rng: &mut StdRng) -> Record {
    let (portal, id) = (pick(rng, &["1", "1", "2"]).to_owned(), pick(rng, &["91", "91", "92", "93"]).to_owned());
    let deal = rng.random_bool(0.9).then(|| Deal {
        v: 1,
        portal: portal.clone(),
        deal_id: id.clone(),
        pipeline: pick(rng, &["p", "p", "p", "p", "q"]).to_owned(),
        stage: pick(rng, &["a", "a", "a", "b", "c"]).to_owned(),
        amount: [None, Some(99.99), Some(100.0), Some(5_000.0)].choose(rng).copied().flatten(),
        contact_ids: ["1", "2", "3", "7"].into_iter().filter(|_| rng.random_bool(0.4)).map(str::to_owned).collect(),
    });
    Record::Deal(portal, id, deal)
}
