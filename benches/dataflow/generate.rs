//! Records of a busy workspace, the same for the same seed.
//!
//! Clicks spread evenly over 60 days; contacts, links and tags by Zipf's law. Four in five clicks name their contact, one in
//! seven carries a click id (of a form that came before, comes within the hold, or never comes), the rest is anonymous or a
//! machine's. One in seven records is up to a minute late, one in a hundred is a repeat.

use clickline::config::rules::{self, Rule};
use clickline::dataflow::plan::{Counts, Plan, Times, WorkspaceSpec};
use clickline::dataflow::rows::{Arrival, Place};
use clickline::model::time::{DAY, Ms, tick_end};
use clickline::model::{Click, Contact, Deal, Form, PackedClick, Utm};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;
use ustr::ustr;

/// When the records begin.
pub const START: Ms = 1_700_000_000_000;
/// The clock's step: that of a replay.
pub const TICK: Ms = 1_000;

const CONTACTS: usize = 100_000;
const LINKS: usize = 2_000;
const TAGS: usize = 200;
const DEALS: usize = 50_000;
const DAYS: Ms = 60;

/// Draws 0..n, the smaller the likelier: Zipf's law with exponent `s`.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(n: usize, s: f64) -> Self {
        let mut sum = 0.0;
        #[expect(clippy::cast_precision_loss, reason = "ranks are small")]
        let cumulated = (1..=n).map(|rank| {
            sum += (rank as f64).powf(-s);
            sum
        });
        Zipf(cumulated.collect())
    }

    fn draw(&self, rng: &mut StdRng) -> usize {
        let at = rng.random_range(0.0..self.0[self.0.len() - 1]);
        self.0.partition_point(|upto| *upto <= at).min(self.0.len() - 1)
    }
}

/// The plan: 22 rules that clicks reach, and `idle` more that none does.
pub fn plan(counts: Counts, idle: usize) -> Plan {
    let rule = |what: String, threshold: usize| {
        format!(
            "- trigger: {{{what}, contact_window: 30d, click_threshold: {threshold}}}\n  action: {{type: advance_deal_stage, pipeline: p, from_stage: a, to_stage: b}}\n"
        )
    };
    let tags = (0..8).map(|n| rule(format!("link_tag: t{}", n * 3), 20 + n * 5));
    let links = (0..14).map(|n| rule(format!("link: d/{}", n * 5), 10 + n));
    let idle = (0..idle).map(|n| rule(format!("link_tag: idle{n}"), 50));
    let rules: Vec<Rule> = rules::read(&tags.chain(links).chain(idle).collect::<String>()).expect("rules");
    let spec = WorkspaceSpec { name: "w".into(), portals: vec!["1".into()], counts };
    Plan::new(Times::with_tick(TICK), &[spec], &rules, |_, _| 0).expect("a plan")
}

/// A record as it was generated.
#[derive(Clone, Debug)]
pub enum Made {
    /// A click, a structure of texts.
    Click(Place, Arc<Click>),
    /// Anything else.
    Other(Arrival),
}

impl Made {
    /// As the job's sources hand it over.
    pub fn arrival(self) -> Arrival {
        match self {
            Made::Click(place, click) => Arrival::Click(place, Arc::new(PackedClick::from(&*click))),
            Made::Other(arrival) => arrival,
        }
    }
}

/// Contacts with an e-mail each, and deals in the stage that the rules move.
pub fn mirror() -> Vec<(Made, Ms)> {
    let place = |offset: usize| Place { partition: 0, offset: i64::try_from(offset).expect("small") };
    let contacts = (0..CONTACTS).map(|n| {
        let id = n.to_string();
        let contact = Contact { portal: "1".into(), contact_id: id.clone(), email: Some(email(n)), ..Contact::default() };
        Arrival::Contact(place(n), ustr("1"), ustr(&id), Some(Arc::new(contact)))
    });
    let deals = (0..DEALS).map(|n| {
        let id = format!("deal{n}");
        let deal = Deal {
            portal: "1".into(),
            deal_id: id.clone(),
            pipeline: "p".into(),
            stage: if n % 3 == 0 { "b" } else { "a" }.into(),
            contact_ids: vec![(n * 2).to_string()],
            ..Deal::default()
        };
        Arrival::Deal(place(n), ustr("1"), ustr(&id), Some(Arc::new(deal)))
    });
    contacts.chain(deals).map(|arrival| (Made::Other(arrival), tick_end(START, TICK))).collect()
}

/// The e-mail of a contact.
pub fn email(contact: usize) -> String {
    format!("u{contact}@example.com")
}

/// Clicks and forms, chunk by chunk.
pub struct Generator {
    rng: StdRng,
    contacts: Zipf,
    links: Zipf,
    tags: Vec<Vec<String>>,
    clicks: u64,
    made: u64,
    forms: usize,
    forms_per_click: f64,
    offset: i64,
    last: Option<Arc<Click>>,
}

impl Generator {
    /// `clicks` clicks and `forms` forms in all.
    pub fn new(seed: u64, clicks: u64, forms: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let of_tags = Zipf::new(TAGS, 1.0);
        let tags = (0..LINKS).map(|_| (0..rng.random_range(1..=2)).map(|_| format!("t{}", of_tags.draw(&mut rng))).collect()).collect();
        #[expect(clippy::cast_precision_loss, reason = "a share")]
        let forms_per_click = forms as f64 / clicks as f64;
        Generator {
            rng,
            contacts: Zipf::new(CONTACTS, 0.9),
            links: Zipf::new(LINKS, 0.8),
            tags,
            clicks,
            made: 0,
            forms: 0,
            forms_per_click,
            offset: 0,
            last: None,
        }
    }

    /// When the next click is appended.
    fn log_time(&self) -> Ms {
        START + 1 + self.made * (DAYS * DAY) / self.clicks
    }

    /// The next records, in the log's order, with about `clicks` clicks; none when there are no more. Ticks are not cut in two: the
    /// program by hand closes each as it ends.
    pub fn chunk(&mut self, clicks: u64) -> Vec<(Made, Ms)> {
        let upto = self.clicks.min(self.made + clicks);
        let mut records: Vec<(Made, Ms)> = Vec::new();
        let goes_on = |of: &Self, last: Option<Ms>| of.made < of.clicks && last == Some(tick_end(of.log_time(), TICK));
        while self.made < upto || goes_on(self, records.last().map(|(_, at)| *at)) {
            let log_time = self.log_time();
            let late = if self.rng.random_bool(1.0 / 7.0) { self.rng.random_range(0..60_000) } else { 0 };
            let ts = log_time - late.min(log_time - START);
            let at = tick_end(log_time, TICK);
            self.offset += 1;
            let place = Place { partition: 0, offset: self.offset };
            if self.rng.random_bool(self.forms_per_click / (1.0 + self.forms_per_click)) {
                records.push((Made::Other(Arrival::Form(place, Arc::new(self.form(ts)))), at));
            } else {
                self.made += 1;
                let again = self.last.clone().filter(|_| self.rng.random_bool(0.01));
                let click = again.unwrap_or_else(|| Arc::new(self.click(ts)));
                self.last = Some(Arc::clone(&click));
                records.push((Made::Click(place, click), at));
            }
        }
        records
    }

    fn form(&mut self, ts: Ms) -> Form {
        self.forms += 1;
        let contact = self.contacts.draw(&mut self.rng);
        Form {
            v: 1,
            id: format!("f{}", self.forms),
            ts,
            workspace: "w".into(),
            email: email(contact),
            gclid: Some(format!("g{}", self.forms)),
            fbclid: None,
        }
    }

    fn click(&mut self, ts: Ms) -> Click {
        let rng = &mut self.rng;
        let link = self.links.draw(rng);
        let (contact_id, gclid) = match rng.random_range(0..100) {
            0..80 => (Some(self.contacts.draw(rng).to_string()), None),
            // Of a form that came before, where as many have come.
            80..88 => {
                let form = self.forms.checked_sub(rng.random_range(0..5_000));
                (None, Some(form.map_or_else(|| format!("never{}", self.made), |form| format!("g{form}"))))
            }
            88..92 => (None, Some(format!("g{}", self.forms + rng.random_range(1..20_000)))),
            92..95 => (None, Some(format!("never{}", self.made))),
            _ => (None, None),
        };
        let mut pick = |of: &str, n: u32| rng.random_bool(0.7).then(|| format!("{of}{}", rng.random_range(0..n)));
        let utm = Utm { source: pick("s", 20), campaign: pick("c", 50), medium: pick("m", 5), term: None, content: None };
        let id = uuid::Uuid::from_u64_pair(
            0x0199_f3c2_0000_7000 + (self.made >> 32),
            0x8000_0000_0000_0000 | self.made.wrapping_mul(0x9E37_79B9),
        );
        Click {
            v: 1,
            id: id.to_string(),
            ts,
            workspace: "w".into(),
            link: format!("d/{link}"),
            title: Some("Q2 pricing PDF".into()),
            destination: Some("https://example.com/pricing.pdf".into()),
            tags: self.tags[link].clone(),
            contact_id,
            gclid,
            utm,
            device: Some("desktop".into()),
            country: Some("FR".into()),
            bot: rng.random_bool(0.03).then(|| "user-agent".into()),
            ..Click::default()
        }
    }
}
