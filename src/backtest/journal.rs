//! What a backtest keeps of a history: states of deals, advances, and how far it reaches.

use crate::dataflow::rows::{Advance, Arrival};
use crate::history::deals::DealStates;
use crate::history::{Ear, Heard};
use crate::model::time::Ms;
use std::collections::BTreeMap;
use ustr::Ustr;

/// What was heard.
#[derive(Default)]
pub struct Journal {
    /// By portal and id.
    pub deals: BTreeMap<(Ustr, Ustr), DealStates>,
    /// Each with its tick's end, in no order.
    pub advances: Vec<(Ms, Advance)>,
    /// First and last tick's end of clicks.
    pub clicks: Option<(Ms, Ms)>,
    /// Clicks, forms, contacts, deals, and what could not be read.
    pub records: [u64; 5],
}

impl Ear for Journal {
    const ALL: bool = false;

    fn arrival(&mut self, arrival: &Arrival, at: Ms) {
        let place = match arrival {
            Arrival::Click(..) => {
                let (first, last) = self.clicks.unwrap_or((at, at));
                self.clicks = Some((first.min(at), last.max(at)));
                0
            }
            Arrival::Form(..) => 1,
            Arrival::Contact(..) => 2,
            Arrival::Deal(place, portal, id, deal) => {
                self.deals.entry((*portal, *id)).or_default().insert((at, *place), deal.clone());
                3
            }
            Arrival::Dead(_) => 4,
            Arrival::Carried(_) => return,
        };
        self.records[place] += 1;
    }

    fn row(&mut self, row: Heard<'_>, at: Ms) {
        if let Heard::Advance(advance) = row {
            self.advances.push((at, advance.clone()));
        }
    }
}
