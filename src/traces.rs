//! What the job and its HubSpot sink tell of a click that is traced ([`clickline_trace`], `docs/traces.md`).
//!
//! # Meaning
//! - `resolve`, once for each click and account: from the tick that resolved it until its event is committed. It follows from the redirect server's
//!   span, hours later where a form was waited for.
//! - `hubspot timeline`, `hubspot properties`, `hubspot stages`: a request that writes what came of the click, each try once. A batch is in the trace of
//!   each of its clicks.

use crate::model::outputs::{Output, Topic};
use crate::model::time::{Ms, now};
use crate::sinks::hubspot::Outcome;
use clickline_trace::{Kind, Span, Trace, Tracer, Value, tracer};
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The redirect server's span.
const REDIRECT: &str = "redirect";
const RESOLVE: &str = "resolve";

fn time(ms: Ms) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms)
}

/// The number of the span that resolved a click for an account.
fn resolve(trace: Trace, portal: &str) -> u64 {
    trace.span(&format!("{RESOLVE} {portal}"))
}

/// What a span says of an event.
#[derive(Deserialize)]
struct Resolved<'a> {
    #[serde(borrow)]
    click_id: Cow<'a, str>,
    #[serde(borrow)]
    portal: Cow<'a, str>,
    #[serde(borrow)]
    workspace: Cow<'a, str>,
    found: By<'a>,
    at: Ms,
}

#[derive(Deserialize)]
struct By<'a> {
    #[serde(borrow)]
    by: Cow<'a, str>,
}

/// Tells of the clicks whose events have just been committed.
pub fn committed(outputs: &[Output]) {
    if let Some(tracer) = tracer() {
        outputs.iter().filter(|output| output.topic == Topic::Timeline).for_each(|output| tell(tracer, &output.value));
    }
}

fn tell(tracer: &Tracer, event: &[u8]) {
    // Written by this very process: it can be read.
    let Ok(Resolved { click_id, portal, workspace, found, at }) = serde_json::from_slice(event) else { return };
    let Some(trace) = tracer.sampled(&click_id) else { return };
    tracer.take(Span {
        trace,
        id: resolve(trace, &portal),
        parent: Some(trace.span(REDIRECT)),
        kind: Kind::Consumer,
        name: RESOLVE,
        start: time(at),
        end: time(now()),
        attributes: vec![
            ("clickline.workspace", Value::from(&*workspace)),
            ("clickline.portal", Value::from(&*portal)),
            ("clickline.found", Value::from(&*found.by)),
        ],
        failure: None,
    });
}

/// A request to HubSpot that is under way.
#[derive(Debug)]
pub struct Call<'a> {
    tracer: &'static Tracer,
    name: &'static str,
    portal: &'a str,
    began: Ms,
    /// Of the sampled clicks among those that it writes.
    traces: Vec<Trace>,
    size: usize,
}

impl<'a> Call<'a> {
    /// A request that writes what came of these clicks; `None` where nobody wants to know.
    pub fn begin<'c>(name: &'static str, portal: &'a str, clicks: impl Iterator<Item = &'c str>) -> Option<Call<'a>> {
        let tracer = tracer()?;
        let mut call = Call { tracer, name, portal, began: now(), traces: Vec::new(), size: 0 };
        let mut known = BTreeSet::new();
        for click in clicks {
            call.size += 1;
            // A click may have changed several properties.
            let trace = tracer.sampled(click).filter(|trace| known.insert(trace.bytes()));
            call.traces.extend(trace);
        }
        (!call.traces.is_empty()).then_some(call)
    }

    /// It was answered, or given up.
    pub fn end(self, outcome: &Outcome) {
        let (word, failed) = word(outcome);
        for trace in self.traces {
            self.tracer.take(Span {
                trace,
                // Each try is a span of its own.
                id: trace.span(&format!("{} {} {}", self.name, self.portal, self.began)),
                parent: Some(resolve(trace, self.portal)),
                kind: Kind::Client,
                name: self.name,
                start: time(self.began),
                end: time(now()),
                attributes: vec![
                    ("clickline.portal", Value::from(self.portal)),
                    ("clickline.outcome", Value::from(word)),
                    ("messaging.batch.message_count", Value::from(self.size)),
                ],
                failure: failed.then_some(word),
            });
        }
    }
}

/// An outcome's word, and whether the request has not done what it was made for.
fn word(outcome: &Outcome) -> (&'static str, bool) {
    match outcome {
        Outcome::Done(_) => ("done", false),
        Outcome::Exists => ("exists", false),
        Outcome::NotFound(_) => ("not-found", true),
        Outcome::Retired => ("retired", true),
        Outcome::Refused(_) => ("refused", true),
        Outcome::Throttled(_) => ("throttled", true),
        Outcome::Unauthorized => ("unauthorized", true),
        Outcome::Forbidden(_) => ("forbidden", true),
        Outcome::Disconnected => ("disconnected", true),
        Outcome::Transient(..) => ("transient", true),
        Outcome::Unsent(..) => ("unsent", true),
    }
}
