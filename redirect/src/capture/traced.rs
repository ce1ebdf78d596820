//! Tells the tracer of each click that is sampled; the sink behind it does the work.
//!
//! The span lasts from the click's own time to the moment when its event loop, which has answered the turn's visitors by then, has handed its
//! clicks on. Where answers wait for the spool, they wait a little longer than that.

use super::Ticket;
use crate::Clock;
use crate::click::id_of;
use crate::sink::{ClickBatch, ClickSink, SinkCounts};
use clickline_trace::{Kind, Span, Tracer, Value};
use serde::Deserialize;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// The name of the span, and what its number follows from.
const NAME: &str = "redirect";

/// A sink that is watched.
pub(crate) struct Traced {
    sink: Arc<dyn ClickSink>,
    tracer: &'static Tracer,
    clock: Clock,
}

/// What the span says of the click.
#[derive(Deserialize)]
struct Told<'a> {
    #[serde(borrow)]
    workspace: Cow<'a, str>,
    #[serde(borrow)]
    link: Cow<'a, str>,
    #[serde(borrow, default)]
    bot: Option<Cow<'a, str>>,
}

impl Traced {
    /// The sink itself where nobody asked for traces.
    pub(crate) fn around(sink: Arc<dyn ClickSink>, clock: &Clock) -> Arc<dyn ClickSink> {
        match clickline_trace::tracer() {
            Some(tracer) => Arc::new(Traced { sink, tracer, clock: clock.clone() }),
            None => sink,
        }
    }

    fn tell(&self, clicks: &ClickBatch) {
        let now = UNIX_EPOCH + Duration::from_millis(self.clock.now());
        for (ts, record) in clicks.iter() {
            let Some(trace) = std::str::from_utf8(id_of(record)).ok().and_then(|id| self.tracer.sampled(id)) else { continue };
            let mut attributes = vec![("http.response.status_code", Value::Number(302))];
            if let Ok(told) = serde_json::from_slice::<Told<'_>>(record) {
                attributes.push(("clickline.workspace", Value::from(&*told.workspace)));
                attributes.push(("clickline.link", Value::from(&*told.link)));
                attributes.extend(told.bot.map(|bot| ("clickline.bot", Value::from(&*bot))));
            }
            let start = UNIX_EPOCH + Duration::from_millis(ts);
            let id = trace.span(NAME);
            self.tracer.take(Span { trace, id, parent: None, kind: Kind::Server, name: NAME, start, end: now, attributes, failure: None });
        }
    }
}

impl ClickSink for Traced {
    fn offer(&self, clicks: &ClickBatch) {
        self.sink.offer(clicks);
        self.tell(clicks);
    }

    fn admits(&self) -> bool {
        self.sink.admits()
    }

    fn holds(&self) -> bool {
        self.sink.holds()
    }

    fn offer_held(&self, clicks: &ClickBatch, ticket: &Arc<Ticket>) {
        self.sink.offer_held(clicks, ticket);
        self.tell(clicks);
    }

    fn counts(&self) -> SinkCounts {
        self.sink.counts()
    }

    fn trouble(&self) -> Option<String> {
        self.sink.trouble()
    }

    fn broken(&self) -> Option<String> {
        self.sink.broken()
    }

    fn close(&self, timeout: Duration) -> SinkCounts {
        self.sink.close(timeout)
    }
}
