//! How fast a click is read from its bytes, and by what.
//!
//! ```text
//! cargo bench --bench decode -- [--records 100000] [--passes 7]
//! ```
//!
//! One thread; records of about 600 bytes as the redirect server writes them, made beforehand. Each way has `--passes` turns
//! in alternation with the others; the fastest turn of each is shown. What a way does not do that the job needs is said in
//! its name: a borrowed click cannot outlive its message, so the job would still have to copy it.

#[path = "../dataflow/generate.rs"]
#[expect(dead_code, reason = "here only clicks are wanted")]
mod generate;

use clap::Parser;
use clickline::model::inputs::{Input as _, json_click};
use clickline::model::{Click, PackedClick, as_written};
use generate::{Generator, Made};
use serde::Deserialize;
use std::borrow::Cow;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// How fast a click is read from its bytes, and by what.
#[derive(Debug, Parser)]
struct Args {
    /// Records that a pass reads.
    #[arg(long, default_value_t = 100_000)]
    records: u64,
    /// Turns of each way.
    #[arg(long, default_value_t = 7)]
    passes: usize,
    /// Of the generator.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Cargo says so.
    #[arg(long, hide = true)]
    bench: bool,
}

type Text<'a> = Option<Cow<'a, str>>;

#[derive(Deserialize)]
struct BorrowedUtm<'a> {
    #[serde(borrow)]
    source: Text<'a>,
    #[serde(borrow)]
    medium: Text<'a>,
    #[serde(borrow)]
    campaign: Text<'a>,
}

/// The fields that the dataflow looks at.
#[derive(Deserialize)]
struct BorrowedClick<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    ts: u64,
    #[serde(borrow)]
    workspace: Cow<'a, str>,
    #[serde(borrow)]
    link: Cow<'a, str>,
    #[serde(borrow)]
    tags: Vec<Cow<'a, str>>,
    #[serde(borrow)]
    deal_id: Text<'a>,
    #[serde(borrow)]
    contact_id: Text<'a>,
    #[serde(borrow)]
    fbclid: Text<'a>,
    #[serde(borrow)]
    gclid: Text<'a>,
    #[serde(borrow)]
    utm: BorrowedUtm<'a>,
    #[serde(borrow)]
    bot: Text<'a>,
}

impl BorrowedClick<'_> {
    fn weight(&self) -> usize {
        let texts = [&self.deal_id, &self.contact_id, &self.fbclid, &self.gclid, &self.bot, &self.utm.source, &self.utm.medium];
        let texts = texts.into_iter().chain([&self.utm.campaign]).flatten().map(|text| text.len()).sum::<usize>();
        self.id.len() + self.workspace.len() + self.link.len() + self.tags.len() + texts + usize::from(self.ts > 0)
    }
}

/// A record as the redirect server writes it: compact, its fields in this order.
fn record(click: &Click) -> Vec<u8> {
    let text = |text: &str| Some(text.to_owned());
    let click = Click {
        referrer: text("https://mail.example.com/inbox/campaigns/q2?folder=offers"),
        user_agent: text(
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Safari/605.1.15",
        ),
        os: text("macOS"),
        browser: text("Safari"),
        ..click.clone()
    };
    serde_json::to_vec(&click).expect("a click is JSON")
}

/// A way to read a record; says something about it, so that nothing is left out.
type Way = (&'static str, fn(&[u8]) -> usize);

fn ways() -> Vec<Way> {
    fn owned(click: &Click) -> usize {
        click.id.len() + click.tags.len()
    }
    vec![
        ("serde_json, owned", |bytes| owned(&json_click(bytes).expect("a click"))),
        ("serde_json, borrowed, 13 fields", |bytes| serde_json::from_slice::<BorrowedClick<'_>>(bytes).expect("a click").weight()),
        ("as written, where it lies", |bytes| as_written::click(bytes).expect("in the writer's form").id.len()),
        ("as written, owned", |bytes| owned(&as_written::click(bytes).expect("in the writer's form").owned())),
        ("the job: as written, else serde_json; checked, packed", |bytes| {
            let click = PackedClick::read(bytes).expect("a click");
            click.id_text().len() + click.tags().len()
        }),
    ]
}

fn main() {
    let args = Args::parse();
    let mut generator = Generator::new(args.seed, args.records, 0);
    let arrivals = generator.chunk(args.records).into_iter();
    let records: Vec<Vec<u8>> = arrivals
        .filter_map(|(arrival, _)| match arrival {
            Made::Click(_, click) => Some(record(&click)),
            _ => None,
        })
        .collect();
    let bytes: usize = records.iter().map(Vec::len).sum();
    println!("{} records of {} bytes on average, best of {} passes", records.len(), bytes / records.len().max(1), args.passes);
    let ways = ways();
    let mut best = vec![Duration::MAX; ways.len()];
    for _ in 0..args.passes {
        for ((_, read), best) in ways.iter().zip(&mut best) {
            let began = Instant::now();
            for record in &records {
                black_box(read(black_box(record)));
            }
            *best = began.elapsed().min(*best);
        }
    }
    println!("{:<48} {:>10} {:>12} {:>8}", "", "ns/record", "records/s", "MB/s");
    for ((name, _), best) in ways.iter().zip(best) {
        let rate = |n: usize| n as f64 / best.as_secs_f64();
        println!("{name:<48} {:>10.0} {:>12.0} {:>8.0}", 1e9 / rate(records.len()), rate(records.len()), rate(bytes) / 1e6);
    }
}
