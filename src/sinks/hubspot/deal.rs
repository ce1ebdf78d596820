//! Whether a deal may still be moved: its state as HubSpot has just told it, against the delta.
//!
//! Pure. HubSpot has no conditional write, so between this decision and the write lies one round trip in which a person may move
//! the deal. The answer to the write is compared; nothing more can be done.

use crate::model::outputs::DealStage;
use serde_json::Value;
use std::collections::BTreeSet;

/// A deal as HubSpot has it now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DealNow {
    /// Its pipeline.
    pub pipeline: String,
    /// Its stage.
    pub stage: String,
    /// Its amount, where it has one that is a number.
    pub amount: Option<f64>,
    /// Whether its stage is a closed one.
    pub closed: bool,
    /// Its contacts, where a guard asks for them.
    pub contacts: BTreeSet<String>,
}

impl DealNow {
    /// Reads a record of HubSpot's answer; values are strings or null.
    pub fn read(record: &Value) -> Self {
        let property = |name: &str| record.pointer(&format!("/properties/{name}")).and_then(Value::as_str).unwrap_or_default();
        DealNow {
            pipeline: property("pipeline").to_owned(),
            stage: property("dealstage").to_owned(),
            amount: property("amount").trim().parse().ok().filter(|amount: &f64| amount.is_finite()),
            closed: property("hs_is_closed") == "true",
            contacts: BTreeSet::new(),
        }
    }
}

/// What to do with a stage delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Write it.
    Move,
    /// The deal is there already.
    There,
    /// Don't; the reason's code.
    Drop(&'static str),
}

/// Decides. `person` is the delta's contact as HubSpot knows it now, after merges.
pub fn judge(delta: &DealStage, now: &DealNow, person: Option<&str>) -> Verdict {
    if now.pipeline != delta.pipeline {
        return Verdict::Drop("other-pipeline");
    }
    if now.stage == delta.to_stage {
        return Verdict::There;
    }
    if now.stage != delta.from_stage {
        return Verdict::Drop("other-stage");
    }
    if now.closed {
        return Verdict::Drop("closed");
    }
    // A deal without an amount does not pass; neither does one whose amount is no number.
    if delta.guard.deal_amount_min.is_some_and(|least| now.amount.is_none_or(|amount| amount < least)) {
        return Verdict::Drop("amount");
    }
    if delta.guard.require_associated_contact && !person.is_some_and(|person| now.contacts.contains(person)) {
        return Verdict::Drop("not-associated");
    }
    Verdict::Move
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::stage;
    use super::*;
    use serde_json::json;

    fn now() -> DealNow {
        DealNow {
            pipeline: "default".into(),
            stage: "appointmentscheduled".into(),
            amount: Some(12000.0),
            closed: false,
            contacts: BTreeSet::from(["801".to_owned()]),
        }
    }

    #[test]
    fn every_guard_is_checked_again() {
        let delta = stage("s1", "9001");
        let judged = |now: DealNow| judge(&delta, &now, Some("801"));
        assert_eq!(judged(now()), Verdict::Move);
        assert_eq!(judged(DealNow { pipeline: "11348541".into(), ..now() }), Verdict::Drop("other-pipeline"));
        assert_eq!(judged(DealNow { stage: "contractsent".into(), ..now() }), Verdict::Drop("other-stage"));
        assert_eq!(judged(DealNow { stage: "qualifiedtobuy".into(), ..now() }), Verdict::There);
        assert_eq!(judged(DealNow { closed: true, ..now() }), Verdict::Drop("closed"));
        assert_eq!(judged(DealNow { amount: Some(4999.99), ..now() }), Verdict::Drop("amount"));
        assert_eq!(judged(DealNow { amount: Some(5000.0), ..now() }), Verdict::Move);
        assert_eq!(judged(DealNow { amount: None, ..now() }), Verdict::Drop("amount"));
        assert_eq!(judged(DealNow { contacts: BTreeSet::new(), ..now() }), Verdict::Drop("not-associated"));
        assert_eq!(judge(&delta, &now(), None), Verdict::Drop("not-associated"));
    }

    #[test]
    fn amounts_are_texts() {
        let read = |amount: Value| DealNow::read(&json!({"properties": {"dealstage": "a", "pipeline": "p", "amount": amount}})).amount;
        assert_eq!(read(json!("12000.50")), Some(12000.5));
        assert_eq!(read(json!("")), None);
        assert_eq!(read(json!("12,000")), None);
        assert_eq!(read(json!("NaN")), None);
        assert_eq!(read(Value::Null), None);
    }

    #[test]
    fn an_amount_is_compared_in_the_deals_own_currency() {
        let delta = stage("s1", "9001");
        let least = delta.guard.deal_amount_min.expect("guarded");
        for amount in ["4999.99", "5000", "12000", ""] {
            let deal = |currency: Option<&str>| {
                let record = json!({"properties": {
                    "pipeline": delta.pipeline, "dealstage": delta.from_stage, "amount": amount, "deal_currency_code": currency,
                    // What HubSpot makes of it in the account's own currency.
                    "amount_in_home_currency": "1",
                }});
                judge(&delta, &DealNow { contacts: BTreeSet::from(["801".to_owned()]), ..DealNow::read(&record) }, Some("801"))
            };
            let passes = amount.parse::<f64>().is_ok_and(|amount| amount >= least);
            let expected = if passes { Verdict::Move } else { Verdict::Drop("amount") };
            for currency in [None, Some("USD"), Some("JPY"), Some("")] {
                assert_eq!(deal(currency), expected, "{amount} {currency:?}");
            }
        }
    }
}
