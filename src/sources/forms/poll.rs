//! Reads the submissions of a form in HubSpot.
//!
//! # Meaning
//! HubSpot lists the newest first and has no filter by time. So each time the pages are read from the first one down to what is older than
//! the newest submission seen, less an overlap. The ids seen within the overlap are part of the cursor.
//!
//! # Guarantee
//! Every submission that HubSpot lists is written, and counts once: its id is HubSpot's. It stands in the topic once, but for a crash
//! between the brokers' acknowledgement and the cursor's, and for a first read that is broken off.
//!
//! Not guaranteed: a submission that HubSpot shows later than the overlap after a newer one.

use super::settings::HubSpotForm;
use super::submission::{listed, record};
use crate::model::time::Ms;
use crate::sinks::hubspot::{Method, Request, Service, Share, segment, text};
use crate::sources::kafka::Clock;
use crate::sources::trouble::{Patience, THROTTLED, Trouble, answer, strange};
use crate::sources::writer::{Record, Writer};
use prometheus_client::metrics::counter::Counter;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// HubSpot's bound on a page.
const PAGE: usize = 50;

/// How far a form has been read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cursor {
    /// Schema version; 1.
    v: u32,
    /// The time of the newest submission, ms; 0 before the first.
    newest: Ms,
    /// The submissions within the overlap behind it, and their times.
    seen: BTreeMap<String, Ms>,
}

impl Default for Cursor {
    fn default() -> Self {
        Cursor { v: 1, newest: 0, seen: BTreeMap::new() }
    }
}

/// The key of a form's cursor.
pub fn key(form: &HubSpotForm) -> String {
    format!("forms/{}/{}", form.portal, form.form)
}

impl Cursor {
    /// Reads what [`Poll`] wrote; `None` for what this build can't read.
    pub fn read(written: &[u8]) -> Option<Self> {
        serde_json::from_slice(written).ok().filter(|cursor: &Cursor| cursor.v == 1)
    }

    /// Takes a submission; says whether it is new.
    fn take(&mut self, id: &str, at: Ms) -> bool {
        self.newest = self.newest.max(at);
        self.seen.insert(id.to_owned(), at).is_none()
    }

    /// Forgets what no page will be read down to again.
    fn forget(&mut self, overlap: Ms) {
        let floor = self.newest.saturating_sub(overlap);
        self.seen.retain(|_, at| *at >= floor);
    }
}

/// One form in HubSpot, and how far it has been read.
pub struct Poll {
    /// The way to HubSpot.
    pub service: Arc<Service>,
    /// The form.
    pub form: HubSpotForm,
    /// Path of the submissions.
    pub path: String,
    /// How far it has been read.
    pub cursor: Cursor,
    /// What was taken since and is not in the cursor's topic.
    pub taken: Cursor,
    /// Lengths of time: between two reads, what is read at first, and the overlap, ms.
    pub times: [Ms; 3],
    /// The way to the topics.
    pub writer: Rc<Writer>,
    /// The topic of forms.
    pub topic: String,
    /// The topic of cursors.
    pub sources: String,
    /// Counts the submissions that were taken.
    pub counter: Counter,
    /// The wall clock.
    pub now: Clock,
}

impl Poll {
    /// Reads until Kafka fails.
    pub async fn run(mut self) -> anyhow::Error {
        let mut patience = Patience::new("the reading of a form", &self.form.portal);
        loop {
            match self.once().await {
                Ok(()) => {
                    patience.restored();
                    tokio::time::sleep(Duration::from_millis(self.times[0])).await;
                }
                Err(trouble) => {
                    if let Err(error) = patience.bear(trouble).await {
                        return error;
                    }
                }
            }
        }
    }

    /// Reads what is new.
    async fn once(&mut self) -> Result<(), Trouble> {
        let [_, since, overlap] = self.times;
        let floor = match self.cursor.newest {
            0 => (self.now)().saturating_sub(since),
            newest => newest.saturating_sub(overlap),
        };
        let mut after: Option<String> = None;
        loop {
            let page = self.page(after.as_deref()).await?;
            let found = page.get("results").and_then(Value::as_array).ok_or_else(|| strange("submissions"))?;
            let submissions: Vec<_> = found.iter().filter_map(listed).collect();
            let down = submissions.iter().any(|submission| submission.at < floor);
            let workspace = self.form.workspace.as_deref().unwrap_or_default();
            let mut records = Vec::new();
            let mut took = Vec::new();
            for submission in submissions.into_iter().filter(|submission| submission.at >= floor) {
                if self.taken.seen.contains_key(&submission.id) {
                    continue;
                }
                match record(workspace, &submission.id, submission.at, &submission.fields, submission.page.as_deref()) {
                    Ok(value) => records.push(Record { topic: &self.topic, key: workspace.to_owned(), value: Some(value) }),
                    Err(refusal) => tracing::warn!(
                        event = "submission_not_taken",
                        form = self.form.form,
                        submission = submission.id,
                        "not taken: {}",
                        refusal.detail
                    ),
                }
                took.push((submission.id, submission.at));
            }
            self.writer.write(&records).await?;
            self.counter.inc_by(records.len() as u64);
            for (id, at) in took {
                self.taken.take(&id, at);
            }
            after = page.pointer("/paging/next/after").and_then(text);
            if down || after.is_none() {
                break;
            }
        }
        self.taken.forget(overlap);
        if self.taken != self.cursor {
            let value = serde_json::to_vec(&self.taken).map_err(|error| Trouble::Kafka(error.into()))?;
            self.writer.write(&[Record { topic: &self.sources, key: key(&self.form), value: Some(value) }]).await?;
            self.cursor = self.taken.clone();
        }
        Ok(())
    }

    async fn page(&self, after: Option<&str>) -> Result<Value, Trouble> {
        let after = after.map(|after| format!("&after={}", segment(after))).unwrap_or_default();
        let path = format!("{}/{}?limit={PAGE}{after}", self.path, segment(&self.form.form));
        let request = Request { method: Method::Get, path, body: None };
        let found = answer(self.service.call(&self.form.portal, &request, Share::Bulk).await, THROTTLED)?;
        found.ok_or_else(|| {
            Trouble::Stuck(format!("HubSpot knows no form {} in portal {}: correct forms.hubspot", self.form.form, self.form.portal))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_forgets_what_lies_behind_the_overlap() {
        let mut cursor = Cursor::default();
        assert!(cursor.take("a", 100) && cursor.take("b", 150) && !cursor.take("a", 100));
        cursor.take("c", 120);
        cursor.forget(30);
        assert_eq!(cursor.seen.keys().collect::<Vec<_>>(), ["b", "c"]);
        let written = serde_json::to_vec(&cursor).expect("writes");
        assert_eq!(Cursor::read(&written), Some(cursor));
        assert_eq!(Cursor::read(b"{\"v\":2,\"newest\":1,\"seen\":{}}"), None);
    }
}
