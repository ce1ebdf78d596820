//! How much memory the dataflow keeps, by the allocator's own count: per click in a window, over many windows, and how
//! little rules cost that nothing touches. No time is measured here.

#![expect(unsafe_code, reason = "an allocator that counts is an allocator")]

use clickline::config::rules;
use clickline::dataflow::compute;
use clickline::dataflow::counts::{Part, Sums};
use clickline::dataflow::plan::{Connection, Counts, Plan, Times, WorkspaceSpec};
use clickline::dataflow::rows::{Arrival, Hit, Place, Subject, Via, Who};
use clickline::dataflow::step::Machine as _;
use clickline::dataflow::windows::{Seen, Size, Told, Windows};
use clickline::model::time::{DAY, HOUR, Ms, tick_end};
use clickline::model::{Click, PackedClick, Utm};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use timely::dataflow::InputHandle;
use timely::dataflow::operators::{Input, Probe};
use ustr::ustr;

thread_local! {
    /// Bytes that this thread has allocated and not freed, and its allocations so far.
    static LIVE: Cell<(isize, u64)> = const { Cell::new((0, 0)) };
}

struct Counting;

fn note(bytes: isize, calls: u64) {
    // A thread that ends has no count any more; nobody asks for it.
    let _ = LIVE.try_with(|live| live.set((live.get().0 + bytes, live.get().1 + calls)));
}

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as isize, 1);
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        note(-(layout.size() as isize), 0);
        // SAFETY: as above; what we gave out came from there.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn live() -> isize {
    LIVE.get().0
}

const START: Ms = 1_700_000_000_000 / DAY * DAY;
const TICK: Ms = 1_000;

fn plan(windows: &[&str], idle: usize) -> Arc<Plan> {
    let rule = |what: String, window: &str| {
        format!(
            "- trigger: {{{what}, contact_window: {window}, click_threshold: 20}}\n  action: {{type: advance_deal_stage, pipeline: p, from_stage: a, to_stage: b}}\n"
        )
    };
    let tags = (0..8).flat_map(|n| windows.iter().map(move |window| rule(format!("link_tag: t{}", n * 3), window)));
    let links = (0..14).flat_map(|n| windows.iter().map(move |window| rule(format!("link: d/{}", n * 5), window)));
    let idle = (0..idle).map(|n| rule(format!("link_tag: idle{n}"), windows[0]));
    let rules = rules::read(&tags.chain(links).chain(idle).collect::<String>()).expect("rules");
    let spec = WorkspaceSpec { name: "w".into(), portals: vec!["1".into()], counts: Counts::Ruled };
    let times = Times { dedupe_horizon: HOUR, ..Times::with_tick(TICK) };
    Arc::new(Plan::new(times, &[spec], &rules, |_, _| 0).expect("a plan"))
}

/// Draws 0..n, the smaller the likelier: Zipf's law.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(n: usize, s: f64) -> Self {
        let mut sum = 0.0;
        Zipf(
            (1..=n)
                .map(|rank| {
                    sum += (rank as f64).powf(-s);
                    sum
                })
                .collect(),
        )
    }

    /// For `x` in 0..2^32.
    fn draw(&self, x: u64) -> usize {
        let at = x as f64 / (1u64 << 32) as f64 * self.0[self.0.len() - 1];
        self.0.partition_point(|upto| *upto <= at).min(self.0.len() - 1)
    }
}

/// Clicks as those of `benches/dataflow`: 2,000 links with one or two of 200 tags each.
struct Clicks {
    contacts: Zipf,
    links: Zipf,
    tags: Zipf,
}

/// A fixed sequence of numbers in 0..2^32.
fn number(n: u64, salt: u64) -> u64 {
    let x = (n ^ (salt << 40)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (x ^ (x >> 32)).wrapping_mul(0x94D0_49BB_1331_11EB) >> 32
}

impl Clicks {
    fn new(contacts: usize) -> Self {
        Clicks { contacts: Zipf::new(contacts, 0.9), links: Zipf::new(2_000, 0.8), tags: Zipf::new(200, 1.0) }
    }

    fn click(&self, n: u64, ts: Ms) -> Click {
        let link = self.links.draw(number(n, 1)) as u64;
        let tag = |salt: u64| format!("t{}", self.tags.draw(number(link, salt)));
        let tags = if link.is_multiple_of(2) { vec![tag(2)] } else { vec![tag(2), tag(3)] };
        Click {
            id: uuid::Uuid::from_u64_pair(0x0199_f3c2_0000_7000, 0x8000_0000_0000_0000 | n).to_string(),
            ts,
            workspace: "w".into(),
            link: format!("d/{link}"),
            tags,
            contact_id: Some(self.contacts.draw(number(n, 4)).to_string()),
            utm: Utm { source: Some(format!("s{}", number(n, 5) % 20)), ..Utm::default() },
            ..Click::default()
        }
    }
}

/// Windows and sums by themselves, over clicks that name their contact.
struct Counters {
    windows: Windows,
    sums: Sums,
    /// Rows that they have told.
    told: u64,
}

impl Counters {
    fn new(plan: &Arc<Plan>) -> Self {
        Counters { windows: Windows::new(Arc::clone(plan)), sums: Sums::new(Arc::clone(plan)), told: 0 }
    }

    fn click(&mut self, click: Arc<PackedClick>, at: Ms) {
        while let Some(due) = self.windows.due().filter(|due| *due < at) {
            self.step(due, Vec::new());
        }
        let subject = Subject::new(Connection { workspace: ustr("w"), portal: ustr("1") }, Who::contact(click.contact_id().unwrap_or("")));
        self.step(at, vec![Seen::Hit(Hit { subject, click, via: Some(Via::Eid) })]);
    }

    fn step(&mut self, at: Ms, mut rows: Vec<Seen>) {
        let (mut parts, told) = (Vec::new(), &mut self.told);
        self.windows.step(at, &mut rows, &mut |row| {
            *told += 1;
            if let Told::Tally(tally) = row {
                parts.push(Part::Tally(tally));
            }
        });
        self.sums.step(at, &mut parts, &mut |_| *told += 1);
    }

    /// Lets `clicks` clicks come evenly over `length`.
    fn run(&mut self, clicks: u64, length: Ms, contacts: usize, from: Ms) {
        let of = Clicks::new(contacts);
        for n in 0..clicks {
            let ts = from + n * length / clicks;
            self.click(of.click(n, ts).into(), tick_end(ts, TICK));
        }
    }
}

/// 40 clicks of each contact in the window, as with ten million clicks of 100,000 contacts in 60 days.
#[test]
fn a_click_in_the_window_takes_at_most_80_bytes() {
    let (clicks, contacts) = (200_000, 5_000);
    for windows in [&["30d"][..], &["30d", "7d"], &["30d", "7d", "1h"]] {
        let plan = plan(windows, 0);
        let before = live();
        let mut counters = Counters::new(&plan);
        counters.run(clicks, 29 * DAY, contacts, START);
        let Size { entries, counts, .. } = counters.windows.size();
        let kept = live() - before;
        let each = kept as f64 / clicks as f64;
        println!("windows {windows:?}: {each:.1} bytes a click in the window; {entries} log entries, {counts} counts");
        // The rules' tags and links are among those that are clicked most.
        assert!(entries as u64 > clicks / 5, "{entries} entries of {clicks} clicks");
        assert!(each <= 80.0, "{each} bytes a click");
        drop(counters);
    }
}

#[test]
fn a_second_window_length_stores_no_second_entry() {
    let entries = |windows: &[&str]| {
        let mut counters = Counters::new(&plan(windows, 0));
        counters.run(20_000, 29 * DAY, 500, START);
        counters.windows.size().entries
    };
    assert_eq!(entries(&["30d"]), entries(&["30d", "7d", "1h"]));
}

#[test]
fn what_a_step_looks_at_does_not_grow_with_what_waits() {
    let looked_at = |waiting: u64| {
        let mut counters = Counters::new(&plan(&["30d", "1h"], 0));
        counters.run(waiting, 10 * DAY, 500, START);
        // An hour without clicks: nothing of before is left to leave the short window.
        let from = START + 10 * DAY + 2 * HOUR;
        counters.step(from, Vec::new());
        let before = counters.windows.size().looked_at;
        counters.run(1_000, 3 * HOUR, 500, from + TICK);
        counters.windows.size().looked_at - before
    };
    let few = looked_at(10);
    assert!(few > 100, "{few} entries have left the short window");
    assert_eq!(few, looked_at(20_000));
}

#[test]
fn a_thousand_rules_that_nothing_touches_add_no_work() {
    let work = |idle: usize| {
        let plan = plan(&["30d"], idle);
        let mut counters = Counters::new(&plan);
        // First everything that is remembered of links and tags; then what a click costs.
        counters.run(20_000, 10 * DAY, 500, START);
        let (told, allocations) = (counters.told, LIVE.get().1);
        counters.run(20_000, 10 * DAY, 500, START + 10 * DAY);
        (counters.told - told, counters.windows.size(), LIVE.get().1 - allocations)
    };
    let (told, size, allocations) = work(0);
    let (told_beside, size_beside, allocations_beside) = work(1_000);
    assert_eq!((told, size), (told_beside, size_beside));
    // Maps may grow a step earlier or later, by how their keys fall.
    assert!(allocations.abs_diff(allocations_beside) <= 20, "{allocations} and {allocations_beside} allocations");
}

/// The whole dataflow under a steady load of the same contacts: what lives after the second window lives after the twelfth, and no more.
#[test]
fn memory_is_flat_over_ten_windows() {
    // In each window the same contacts and links, under other ids.
    flat_over_ten_windows(|window, n, click| Click { id: format!("{window}-{n:06}"), ..click });
}

/// … and of contacts that come in one window only. Last campaign values have no window: these clicks bring none.
#[test]
fn contacts_that_do_not_come_again_leave_nothing() {
    flat_over_ten_windows(|window, n, click| Click {
        id: format!("{window}-{n:06}"),
        contact_id: click.contact_id.map(|id| format!("{}{id}", window + 1)),
        utm: Utm::default(),
        ..click
    });
}

fn flat_over_ten_windows(made: fn(u64, u64, Click) -> Click) {
    let plan = plan(&["1h", "10m"], 0);
    let after: Vec<isize> = timely::execute_directly(move |worker| {
        let mut input = InputHandle::new();
        let probe = worker.dataflow::<Ms, _, _>(|scope| {
            let computed = compute(scope.input_from(&mut input), &plan);
            let probe = timely::dataflow::ProbeHandle::new();
            computed.resolved.probe_with(&probe);
            computed.values.probe_with(&probe);
            computed.counts.probe_with(&probe);
            computed.advances.probe_with(&probe);
            probe
        });
        let (per_window, of, mut after) = (6_000u64, Clicks::new(200), Vec::new());
        for window in 0..14 {
            for n in 0..per_window {
                let ts = START + window * HOUR + n * HOUR / per_window;
                let at = tick_end(ts, TICK);
                let click = made(window, n, of.click(n, ts));
                input.send((Arrival::Click(Place { partition: 0, offset: n as i64 }, click.into()), at));
                if n % 100 == 99 {
                    input.advance_to(at);
                    input.flush();
                    while probe.less_than(input.time()) {
                        worker.step();
                    }
                }
            }
            after.push(live());
        }
        after
    });
    let (second, last) = (after[2], *after.last().expect("14 windows"));
    println!("live bytes after each window: {after:?}");
    assert!(last - second <= second / 20, "{second} bytes after the second window, {last} after the last: {after:?}");
}
