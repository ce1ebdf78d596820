//! Finds the form behind a click that carries a click id but no contact.
//!
//! # Meaning
//! A form matches a click when it carries the same value in the same field (`gclid`, `fbclid`) in the same workspace.
//! A click takes, of the forms seen so far with `click − 14 d ≤ form ≤ click`, the one with the largest (time, id). Else
//! it is held until a matching form with `click − 14 d ≤ form ≤ click + 72 h` is seen; of several that are seen in one
//! tick, one before the click goes first (the largest), else the smallest. Else, once the clock passes `click + 72 h`,
//! it expires. Decided once, never taken back.
//!
//! # Ties and edges
//! All bounds are inclusive. Within a tick forms come before clicks and expiry comes last: a form seen in the very tick
//! in which a hold ends still counts, if its own time is in range. A click that arrives after a form it lies before
//! (a late click) takes that form at once: it has been seen. A click that arrives later than 72 h after it happened,
//! with no form to take, expires in the tick of its arrival.
//!
//! A click with both click ids is looked up under each; each half answers once and [`super::settle`] decides.
//!
//! # Cost and limits
//! A step looks at a click that waits when a form comes that may fit it, and when holds of its meeting place end: at the first of
//! them only, however many wait there. State: forms from the last 14 days and `max_lateness`, clicks of the last 72 hours that still wait. A click that
//! arrives more than `max_lateness` after it happened may find its form forgotten; that is the one limit on lateness.

use super::rows::{hash, mix};
use super::step::{AHEAD, Machine, Map, each};
use crate::model::time::{FORM_BEFORE, HOLD, Ms, tick_end};
use crate::model::{Form, PackedClick};
use crate::status::{Part, Total};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use std::collections::{BTreeMap, VecDeque};
use std::hint::black_box;
use std::sync::Arc;
use ustr::Ustr;

/// Which of the two click ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Field {
    /// Google's.
    Gclid,
    /// Facebook's.
    Fbclid,
}

/// What forms and clicks meet on. The value is a digest: click ids are long, and there is one per click.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Meeting {
    /// Both must belong to it.
    pub workspace: Ustr,
    /// The field.
    pub field: Field,
    /// SHA-1 of the value, 122 bits of it; case matters.
    pub value: u128,
}

impl Meeting {
    /// Where `value` in `field` meets.
    pub fn on(workspace: Ustr, field: Field, value: &str) -> Self {
        let value = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, value.as_bytes()).as_u128();
        Meeting { workspace, field, value }
    }

    /// The worker's number, before the division.
    pub fn route(&self) -> u64 {
        #[expect(clippy::cast_possible_truncation, reason = "half of a digest is a digest")]
        let half = self.value as u64;
        mix(half ^ hash(&self.workspace))
    }
}

/// A form or a click at its meeting place.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Met {
    /// A form that carries the value.
    Form(Arc<Form>),
    /// A click that carries it; `halves` says under how many fields it is looked up.
    Click {
        /// The click.
        click: Arc<PackedClick>,
        /// 1 or 2.
        halves: u8,
    },
}

/// One half's answer about a click.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// The click.
    pub click: Arc<PackedClick>,
    /// How many halves answer.
    pub halves: u8,
    /// The tick in which the click was seen: an id that comes again after the dedupe horizon is another click.
    pub seen: Ms,
    /// The form; `None`: the hold expired.
    pub form: Option<Arc<Form>>,
}

/// A click that waits, under how many fields, and since which tick.
type Held = (Arc<PackedClick>, u8, Ms);

#[derive(Default)]
struct Slot {
    /// By (time, id), in the order in which forms are preferred: mostly one.
    forms: SmallVec<[Arc<Form>; 1]>,
    /// In the order of their own times: of many that wait at one place only those are looked at whose turn it is.
    held: VecDeque<Held>,
}

/// The machine; see the module.
pub struct FirstMatch {
    tick: Ms,
    max_lateness: Ms,
    slots: Map<Meeting, Slot>,
    /// Clicks that wait, and where that is told.
    held: usize,
    told: Part,
    /// Clicks that waited and were looked at, whether they went or not.
    looked_at: u64,
    /// Holds that end, by the tick in which they do.
    expiry: BTreeMap<Ms, Vec<Meeting>>,
    /// Forms that no click can need any more, by the tick in which they go.
    forget: BTreeMap<Ms, Vec<(Meeting, Arc<Form>)>>,
}

/// Whether a form's time is one a click may take.
pub fn in_range(click: Ms, form: Ms) -> bool {
    form.saturating_add(FORM_BEFORE) >= click && form <= click.saturating_add(HOLD)
}

/// The better of two forms for a click: one at or before it before one after it; before it the later, after it the earlier.
/// The e-mail decides between two that came under one id, further apart than the dedupe horizon.
pub fn better<'f>(click: Ms, a: &'f Arc<Form>, b: &'f Arc<Form>) -> &'f Arc<Form> {
    let (first, second) = if (a.ts, &a.id, &a.email) <= (b.ts, &b.id, &b.email) { (a, b) } else { (b, a) };
    if second.ts <= click { second } else { first }
}

impl FirstMatch {
    /// With the clock's tick and the lateness that forms are kept for, ms.
    pub fn new(tick: Ms, max_lateness: Ms) -> Self {
        let (held, told) = (0, Total::default().part());
        FirstMatch { tick, max_lateness, slots: Map::default(), held, told, looked_at: 0, expiry: BTreeMap::new(), forget: BTreeMap::new() }
    }

    /// Says there how many clicks wait.
    pub fn told_to(self, total: &Total) -> Self {
        FirstMatch { told: total.part(), ..self }
    }

    /// Clicks that wait for a form.
    pub fn held(&self) -> usize {
        self.held
    }

    fn take_form(&mut self, meeting: Meeting, form: Arc<Form>) {
        let gone = tick_end(form.ts.saturating_add(FORM_BEFORE).saturating_add(self.max_lateness).saturating_add(1), self.tick);
        self.forget.entry(gone).or_default().push((meeting, Arc::clone(&form)));
        let forms = &mut self.slots.entry(meeting).or_default().forms;
        match place(forms, &form) {
            Ok(place) => forms[place] = form,
            Err(place) => forms.insert(place, form),
        }
    }

    /// Looks at the slots of at most [`AHEAD`] meetings, and at what waits in them.
    fn look<'r>(&self, meetings: impl Iterator<Item = &'r Meeting>) {
        let slots: SmallVec<[&Slot; AHEAD]> = meetings.filter_map(|meeting| self.slots.get(meeting)).collect();
        let form = |slot: &Slot| slot.forms.first().map_or(0, |form| form.ts);
        let click = |slot: &Slot| slot.held.front().map_or(0, |(click, ..)| click.ts);
        black_box(slots.into_iter().fold(0, |all, slot| all ^ form(slot) ^ click(slot)));
    }

    /// The first tick's end that is past the click's hold.
    fn expires(&self, click: &PackedClick) -> Ms {
        tick_end(click.ts.saturating_add(HOLD).saturating_add(1), self.tick)
    }
}

/// Where a form stands among those of its meeting, or would.
fn place(forms: &[Arc<Form>], form: &Form) -> Result<usize, usize> {
    forms.binary_search_by(|of| (of.ts, of.id.as_str()).cmp(&(form.ts, form.id.as_str())))
}

/// Of all forms seen, the one that a click arriving now takes.
fn choose(slot: &Slot, click: Ms) -> Option<Arc<Form>> {
    let (before, after) = slot.forms.split_at(slot.forms.partition_point(|form| form.ts <= click));
    let fits = |form: &&Arc<Form>| in_range(click, form.ts);
    before.last().filter(fits).or_else(|| after.first().filter(fits)).map(Arc::clone)
}

impl Machine for FirstMatch {
    type In = (Meeting, Met);
    type Out = Answer;

    fn warm<'r>(&mut self, rows: impl Iterator<Item = &'r Self::In> + Clone) {
        self.look(rows.map(|(meeting, _)| meeting));
    }

    fn step(&mut self, at: Ms, rows: &mut Vec<Self::In>, out: &mut dyn FnMut(Answer)) {
        let mut fresh: Vec<(Meeting, Arc<Form>)> = Vec::new();
        let mut clicks = Vec::new();
        for (meeting, met) in rows.drain(..) {
            match met {
                Met::Form(form) => fresh.push((meeting, form)),
                Met::Click { click, halves } => clicks.push((meeting, click, halves)),
            }
        }
        // Forms first: those that wait choose among this tick's forms only, older ones they have refused already.
        fresh.sort_by_key(|(meeting, _)| *meeting);
        for forms in fresh.chunk_by(|a, b| a.0 == b.0) {
            let held = &mut self.slots.entry(forms[0].0).or_default().held;
            let times = || forms.iter().map(|(_, form)| form.ts);
            let (first, last) = (times().min().unwrap_or(0), times().max().unwrap_or(0));
            // All that one of the forms may fit.
            let from = held.partition_point(|(click, ..)| click.ts.saturating_add(HOLD) < first);
            let to = held.partition_point(|(click, ..)| click.ts <= last.saturating_add(FORM_BEFORE));
            let mut stay = Vec::new();
            for (click, halves, seen) in held.drain(from..to.max(from)) {
                self.looked_at += 1;
                let fit = forms.iter().map(|(_, form)| form).filter(|form| in_range(click.ts, form.ts));
                match fit.reduce(|a, b| better(click.ts, a, b)).map(Arc::clone) {
                    Some(form) => {
                        self.held -= 1;
                        out(Answer { click, halves, seen, form: Some(form) });
                    }
                    None => stay.push((click, halves, seen)),
                }
            }
            for (place, click) in (from..).zip(stay) {
                held.insert(place, click);
            }
        }
        for (meeting, form) in fresh {
            self.take_form(meeting, form);
        }
        let show = |first_match: &mut FirstMatch, clicks: &[(Meeting, _, _)]| first_match.look(clicks.iter().map(|(meeting, ..)| meeting));
        each(self, &mut clicks, show, |first_match, (meeting, click, halves)| {
            let expires = first_match.expires(&click).max(at);
            let slot = first_match.slots.entry(meeting).or_default();
            match choose(slot, click.ts) {
                Some(form) => out(Answer { click, halves, seen: at, form: Some(form) }),
                None => {
                    let place = slot.held.partition_point(|(held, ..)| held.ts <= click.ts);
                    slot.held.insert(place, (click, halves, at));
                    first_match.held += 1;
                    first_match.expiry.entry(expires).or_default().push(meeting);
                }
            }
        });
        // Expiry last. A late click's hold may have ended before it arrived: `max(at)` above brings it here now.
        while let Some(entry) = self.expiry.first_entry()
            && *entry.key() <= at
        {
            for meeting in entry.remove() {
                let Some(slot) = self.slots.get_mut(&meeting) else { continue };
                while let Some((click, ..)) = slot.held.front() {
                    self.looked_at += 1;
                    if click.ts.saturating_add(HOLD) >= at {
                        break;
                    }
                    let Some((click, halves, seen)) = slot.held.pop_front() else { break };
                    self.held -= 1;
                    out(Answer { click, halves, seen, form: None });
                }
                if slot.held.is_empty() && slot.forms.is_empty() {
                    self.slots.remove(&meeting);
                }
            }
        }
        while let Some(entry) = self.forget.first_entry()
            && *entry.key() <= at
        {
            for (meeting, form) in entry.remove() {
                let Some(slot) = self.slots.get_mut(&meeting) else { continue };
                if let Ok(place) = place(&slot.forms, &form) {
                    slot.forms.remove(place);
                }
                if slot.held.is_empty() && slot.forms.is_empty() {
                    self.slots.remove(&meeting);
                }
            }
        }
        self.told.set(self.held);
    }

    fn due(&self) -> Option<Ms> {
        // Forgetting changes no answer, but a log without traffic must free memory too.
        [self.expiry.keys().next(), self.forget.keys().next()].into_iter().flatten().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::super::step::testing::run;
    use super::*;
    use crate::model::Click;
    use crate::model::time::{DAY, HOUR};
    use ustr::ustr;

    const T: Ms = 100 * DAY;

    fn meeting() -> Meeting {
        Meeting::on(ustr("w"), Field::Gclid, "g")
    }

    fn form(id: &str, ts: Ms, seen: Ms) -> ((Meeting, Met), Ms) {
        let form = Form { id: id.into(), ts, workspace: "w".into(), email: format!("{id}@x"), ..Form::default() };
        ((meeting(), Met::Form(Arc::new(form))), tick_end(seen, 100))
    }

    fn click(ts: Ms, seen: Ms) -> ((Meeting, Met), Ms) {
        let click = Click { id: "c".into(), ts, workspace: "w".into(), ..Click::default() };
        ((meeting(), Met::Click { click: click.into(), halves: 1 }), tick_end(seen, 100))
    }

    /// The form's id, or `-` for expiry, with the tick.
    fn said(rows: Vec<((Meeting, Met), Ms)>) -> Vec<(String, Ms)> {
        let mut machine = FirstMatch::new(100, DAY);
        let said = run(&mut machine, rows, T + 1_000 * DAY);
        assert!(machine.slots.is_empty() && machine.expiry.is_empty() && machine.forget.is_empty(), "everything is forgotten in the end");
        said.into_iter().map(|(answer, at)| (answer.form.map_or("-".to_owned(), |form| form.id.clone()), at)).collect()
    }

    #[test]
    fn a_tick_of_many_is_a_tick_of_each() {
        let at = |n: usize| Meeting::on(ustr("w"), Field::Gclid, &format!("g{n}"));
        let form = |n: usize| {
            let form = Form { id: format!("f{n}"), ts: T, workspace: "w".into(), email: "a@x".into(), ..Form::default() };
            ((at(n), Met::Form(Arc::new(form))), T)
        };
        let click = |n: usize| {
            let click = Click { id: format!("c{n}"), ts: T, workspace: "w".into(), ..Click::default() };
            ((at(n), Met::Click { click: click.into(), halves: 1 }), T + 100)
        };
        // Every second one has a form; the others are refused when their hold has ended.
        let rows = (0..300).step_by(2).map(form).chain((0..300).map(click)).collect();
        let answers = run(&mut FirstMatch::new(100, DAY), rows, T + 1_000 * DAY);
        let mut said: Vec<_> =
            answers.iter().map(|(of, at)| (of.click.id_text(), of.form.as_ref().map(|form| form.id.clone()), *at)).collect();
        said.sort();
        let names: Vec<String> = (0..300).map(|n| format!("c{n}")).collect();
        let expected = names.iter().enumerate().map(|(n, name)| match n % 2 {
            0 => (name.as_str(), Some(format!("f{n}")), T + 100),
            _ => (name.as_str(), None, tick_end(T + HOLD + 1, 100)),
        });
        let mut expected: Vec<_> = expected.collect();
        expected.sort();
        assert_eq!(said, expected);
    }

    #[test]
    fn a_form_exactly_14_days_before_still_matches() {
        assert_eq!(said(vec![form("f", T - FORM_BEFORE, T - DAY), click(T, T)]), [("f".into(), T)]);
        let late = said(vec![form("f", T - FORM_BEFORE - 1, T - DAY), click(T, T)]);
        assert_eq!(late, [("-".into(), tick_end(T + HOLD + 1, 100))]);
    }

    #[test]
    fn a_form_at_72_hours_matches_one_a_millisecond_later_does_not() {
        assert_eq!(said(vec![click(T, T), form("f", T + HOLD, T + HOLD)]), [("f".into(), T + HOLD)]);
        // Seen in the tick in which the hold ends, its own time still in range: forms come before expiry.
        assert_eq!(said(vec![click(T, T), form("f", T + HOLD, T + HOLD + 1)]), [("f".into(), T + HOLD + 100)]);
        assert_eq!(said(vec![click(T, T), form("f", T + HOLD + 1, T + HOLD + 1)]), [("-".into(), T + HOLD + 100)]);
        // In range by its own time, but seen a tick too late.
        assert_eq!(said(vec![click(T, T), form("f", T + HOLD, T + HOLD + 101)]), [("-".into(), T + HOLD + 100)]);
    }

    #[test]
    fn the_latest_form_before_wins_and_ids_break_ties() {
        assert_eq!(said(vec![form("a", T - 5, T - 5), form("b", T - 3, T - 3), form("z", T - 4, T - 3), click(T, T)]), [("b".into(), T)]);
        assert_eq!(said(vec![form("b", T, T), form("a", T, T), click(T, T)]), [("b".into(), T)]);
    }

    #[test]
    fn of_several_in_one_tick_one_before_the_click_goes_first() {
        let rows = |forms: &[(&str, Ms)]| {
            let mut rows = vec![click(T, T)];
            rows.extend(forms.iter().map(|(id, ts)| form(id, *ts, T + HOUR)));
            rows
        };
        assert_eq!(said(rows(&[("a", T + 10), ("b", T + 5), ("c", T + 20)])), [("b".into(), T + HOUR)]);
        assert_eq!(said(rows(&[("a", T + 10), ("b", T - 5), ("c", T - 20)])), [("b".into(), T + HOUR)]);
        assert_eq!(said(rows(&[("d", T + 10), ("a", T + 10)])), [("a".into(), T + HOUR)]);
    }

    #[test]
    fn a_late_click_takes_a_form_it_lies_before() {
        assert_eq!(said(vec![form("f", T + HOUR, T + HOUR), click(T, T + 2 * HOUR)]), [("f".into(), T + 2 * HOUR)]);
        assert_eq!(said(vec![click(T, T + HOLD + DAY)]), [("-".into(), T + HOLD + DAY)]);
    }

    #[test]
    fn what_is_looked_at_does_not_grow_with_what_waits_at_one_place() {
        // A click id that was shared: all wait at one place, none is found, each expires in a tick of its own.
        let of_ads = |n: Ms| click(T + n * 1_000, T + n * 1_000);
        let mut machine = FirstMatch::new(100, DAY);
        let rows = (0..2_000).rev().map(of_ads).chain([form("late", T + 100 * DAY, T + 80 * HOUR)]).collect();
        let said = run(&mut machine, rows, T + 200 * DAY);
        assert_eq!(said.len(), 2_000);
        assert!(said.iter().all(|(answer, at)| answer.form.is_none() && *at == tick_end(answer.click.ts + HOLD + 1, 100)));
        assert!(machine.looked_at <= 2 * 2_000, "{} looks at 2,000 clicks", machine.looked_at);
    }

    #[test]
    fn forms_of_one_tick_take_what_fits_them_and_leave_the_rest_in_order() {
        let rows = vec![
            click(T, T),
            click(T + 20 * DAY, T + 100),
            click(T + 60 * HOUR, T + 200),
            form("a", T + 60 * HOUR, T + 61 * HOUR),
            form("b", T + 22 * DAY, T + 61 * HOUR),
        ];
        let tick = T + 61 * HOUR;
        let mut found = said(rows);
        found.sort();
        assert_eq!(found, [("a".into(), tick), ("a".into(), tick), ("b".into(), tick)]);
        // One in the middle that neither fits stays until its hold ends.
        let mut left = said(vec![
            click(T, T),
            click(T + 16 * DAY, T + 100),
            click(T + 40 * DAY, T + 100),
            form("a", T, T + HOUR),
            form("b", T + 40 * DAY, T + HOUR),
        ]);
        left.sort();
        assert_eq!(left[1..], [("a".into(), T + HOUR), ("b".into(), T + HOUR)]);
        assert_eq!(left[0], ("-".into(), tick_end(T + 16 * DAY + HOLD + 1, 100)));
    }

    #[test]
    fn forms_and_clicks_of_one_tick_meet() {
        assert_eq!(said(vec![click(T, T), form("f", T, T)]), [("f".into(), T)]);
    }
}
