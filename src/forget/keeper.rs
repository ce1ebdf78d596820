//! Keeps the erased erased while a job runs: the other stores are gone through as soon as somebody was erased, and then once a day, for
//! whatever has come of them since.

use super::{How, Stores, sweep};
use crate::kafka::Kafka;
use crate::model::time::{DAY, Ms};
use crate::sinks::clickhouse;
use crate::sources::kafka::Clock;
use crate::state::State;
use crate::stop::Stop;
use anyhow::Context as _;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks at whether somebody was erased.
const LOOK: Duration = Duration::from_secs(5);
/// Between two looks at whether to stop.
const POLL: Duration = Duration::from_millis(100);
/// The pause after a round that did not get through everywhere, ms.
const AGAIN: Ms = 60_000;

/// What it goes through.
#[derive(Clone)]
pub struct Keeper {
    /// Brokers and topics.
    pub kafka: Kafka,
    /// The state database.
    pub state: PathBuf,
    /// ClickHouse, where there is one.
    pub clickhouse: Option<clickhouse::Settings>,
    /// The accounts of each workspace.
    pub workspaces: BTreeMap<String, Vec<String>>,
    /// Whether a mirror runs beside it.
    pub mirrored: bool,
    /// The wall clock.
    pub now: Clock,
}

/// When the next round is due; `least` as [`State::least_swept`] says. Rounds are `none`, or the last one's time and whether it got through.
fn due(least: Option<(u64, Ms)>, last: Option<(Ms, bool)>, now: Ms) -> bool {
    match (least, last) {
        (None, _) => false,
        (Some(_), Some((at, false))) => now >= at.saturating_add(AGAIN),
        (Some((0, _)), _) | (Some(_), None) => true,
        (Some(_), Some((at, true))) => now >= at.saturating_add(DAY),
    }
}

impl Keeper {
    /// Starts it on a thread of its own, which ends when `stop` is asked; nobody need wait for it.
    ///
    /// # Errors
    /// No thread, or a state database that can't be opened.
    pub fn start(self, stop: Stop) -> anyhow::Result<()> {
        let state = Arc::new(State::open(&self.state)?);
        let run = move || {
            let (mut last, mut wait) = (None, Duration::ZERO);
            while !stop.asked() {
                std::thread::sleep(POLL);
                wait = wait.saturating_sub(POLL);
                if !wait.is_zero() {
                    continue;
                }
                wait = LOOK;
                let now = (self.now)();
                match state.least_swept() {
                    Ok(least) if due(least, last, now) => last = Some((now, self.round(&state, now))),
                    Ok(_) => {}
                    Err(error) => tracing::warn!(event = "erasure_unreadable", "whether somebody was erased can't be read: {error:#}"),
                }
            }
        };
        std::thread::Builder::new().name("forget".to_owned()).spawn(run).context("no thread to forget persons on").map(drop)
    }

    /// Goes through everything once; says whether it got through.
    fn round(&self, state: &Arc<State>, now: Ms) -> bool {
        let stores = Stores {
            kafka: &self.kafka,
            state,
            clickhouse: self.clickhouse.as_ref(),
            workspaces: &self.workspaces,
            contacts: !self.mirrored,
        };
        let round = state.erased().and_then(|erased| {
            let swept = sweep(&stores, &erased, How::Remove, now)?;
            if swept.failed.is_empty() {
                state.swept(&erased)?;
            }
            Ok(swept)
        });
        match round {
            Ok(swept) => {
                if swept.count() > 0 {
                    tracing::info!(event = "erasure_swept", removed = swept.count(), "what is kept of erased persons was removed");
                }
                swept.failed.iter().for_each(|why| {
                    tracing::warn!(
                        event = "erasure_incomplete",
                        "erased persons are not gone from everywhere, tried again in a minute: {why}"
                    )
                });
                swept.failed.is_empty()
            }
            Err(error) => {
                tracing::warn!(
                    event = "erasure_incomplete",
                    "erased persons are not gone from everywhere, tried again in a minute: {error:#}"
                );
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_due_at_once_and_then_daily() {
        assert!(!due(None, None, 5 * DAY), "nobody is erased");
        assert!(due(Some((0, 5)), None, 5) && due(Some((3, 5)), None, 5), "after a start, for nobody looked meanwhile");
        assert!(due(Some((0, 9)), Some((8, true)), 9), "somebody new");
        assert!(!due(Some((0, 9)), Some((8, false)), 8 + AGAIN - 1) && due(Some((0, 9)), Some((8, false)), 8 + AGAIN));
        assert!(!due(Some((1, 9)), Some((9, true)), 8 + DAY) && due(Some((1, 9)), Some((9, true)), 9 + DAY));
    }
}
