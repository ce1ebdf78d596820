//! Brings together the answers about a click that carries both click ids.
//!
//! # Meaning
//! Such a click is looked up under each id, and each half answers once: with a form, or that its hold expired. The first
//! tick that brings a form decides; if both bring one in that tick, the better of the two. If neither brings one, the
//! click expires once. A click with one click id does not come here.
//!
//! # Ties and edges
//! Both halves of a hold end in the same tick, so "expired" is never said early.
//!
//! # Cost
//! An entry for each click of which one half has answered.

use super::first_match::{Answer, better};
use super::rows::ClickId;
use super::step::{Machine, Map};
use crate::model::time::Ms;
use std::collections::BTreeMap;
use std::sync::Arc;
use ustr::{Ustr, ustr};

/// Workspace, id, and the tick in which the click was seen.
type Key = (Ustr, ClickId, Ms);

/// The machine; see the module.
#[derive(Default)]
pub struct Settle {
    /// Clicks of which one half has answered: whether that settled it.
    waiting: Map<Key, bool>,
}

impl Machine for Settle {
    type In = Answer;
    type Out = Answer;

    fn step(&mut self, _at: Ms, rows: &mut Vec<Answer>, out: &mut dyn FnMut(Answer)) {
        let mut by_click: BTreeMap<Key, Vec<Answer>> = BTreeMap::new();
        for answer in rows.drain(..) {
            by_click.entry((ustr(answer.click.workspace()), answer.click.id.clone(), answer.seen)).or_default().push(answer);
        }
        for (key, answers) in by_click {
            let before = self.waiting.remove(&key);
            let complete = answers.len() + usize::from(before.is_some()) >= 2;
            let mut settled = before.unwrap_or(false);
            let Some(first) = answers.first() else { continue };
            let click = Arc::clone(&first.click);
            if !settled {
                let form = answers.iter().filter_map(|answer| answer.form.as_ref()).reduce(|a, b| better(click.ts, a, b)).map(Arc::clone);
                if form.is_some() || complete {
                    settled = true;
                    out(Answer { click, halves: 2, seen: key.2, form });
                }
            }
            if !complete {
                self.waiting.insert(key, settled);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::step::testing::run;
    use super::*;
    use crate::model::{Click, Form};

    fn answer(form: Option<(&str, Ms)>) -> Answer {
        let click = Click { id: "c".into(), ts: 100, workspace: "w".into(), ..Click::default() }.into();
        let form = form.map(|(id, ts)| Arc::new(Form { id: id.into(), ts, ..Form::default() }));
        Answer { click, halves: 2, seen: 100, form }
    }

    fn said(rows: Vec<(Answer, Ms)>) -> Vec<(String, Ms)> {
        let mut settle = Settle::default();
        let said = run(&mut settle, rows, 10_000);
        assert!(settle.waiting.is_empty(), "both halves have answered");
        said.into_iter().map(|(answer, at)| (answer.form.map_or("-".into(), |form| form.id.clone()), at)).collect()
    }

    #[test]
    fn the_first_tick_with_a_form_decides() {
        assert_eq!(said(vec![(answer(Some(("a", 90))), 200), (answer(Some(("b", 95))), 300)]), [("a".into(), 200)]);
        assert_eq!(said(vec![(answer(Some(("a", 90))), 200), (answer(None), 300)]), [("a".into(), 200)]);
    }

    #[test]
    fn in_one_tick_the_better_form_wins() {
        assert_eq!(said(vec![(answer(Some(("a", 90))), 200), (answer(Some(("b", 95))), 200)]), [("b".into(), 200)]);
        assert_eq!(said(vec![(answer(Some(("a", 190))), 200), (answer(Some(("b", 195))), 200)]), [("a".into(), 200)]);
        assert_eq!(said(vec![(answer(Some(("a", 190))), 200), (answer(Some(("b", 95))), 200)]), [("b".into(), 200)]);
    }

    #[test]
    fn an_id_that_comes_again_is_another_click() {
        let again = |form| Answer { seen: 150, ..answer(form) };
        let rows = vec![answer(None), answer(None), again(None), again(Some(("a", 90)))];
        let said = said(rows.into_iter().map(|answer| (answer, 200)).collect());
        assert_eq!(said, [("-".into(), 200), ("a".into(), 200)]);
    }

    #[test]
    fn neither_half_is_one_expiry() {
        assert_eq!(said(vec![(answer(None), 200), (answer(None), 200)]), [("-".into(), 200)]);
    }
}
