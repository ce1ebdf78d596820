//! Follows one account: first a load, then its changes, and now and then a load again.
//!
//! ```text
//!  no place, or lost ──► note the place ──► load page by page ──► changes ◄──┐
//!                                             │ changes come first           │ every
//!                                             └──────────────────────────────┘ reload_every: load again
//! ```
//!
//! # Why nothing is missed
//! - The place from which changes are followed is noted before the first page is asked for.
//! - What changes before that place is in the pages; what changes after it is among the changes.
//! - Whichever says so, a record is read from HubSpot and written before the next is asked for: a later reading never comes before
//!   an earlier one in the topic.
//! - A cursor stands for nothing that is not acknowledged ([`Mirror::commit`]).

use super::cursor::{Cursor, Load, Place};
use super::journal::Journal;
use super::mirror::Mirror;
use super::object::Object;
use super::search::{self, Search};
use super::settings::CrmSettings;
use super::webhooks;
use crate::kafka::Kafka;
use crate::model::time::{DAY, HOUR, Ms};
use crate::sources::kafka::Clock;
use crate::sources::trouble::{Patience, Trouble};
use std::time::{Duration, Instant};

/// HubSpot keeps an entry of the journal for three days; two hours less, because the time of the last reading is known to the hour.
const JOURNAL_FOR: Ms = 3 * DAY - 2 * HOUR;
/// Between two looks at the topic of changes.
const LOOK: Duration = Duration::from_millis(100);
/// How changes are learned.
#[derive(Debug)]
pub enum Way {
    /// By search.
    Search(Search),
    /// From the journal.
    Journal(Box<Journal>),
    /// From what the endpoint wrote down; opened once its place is known.
    Webhooks(Box<Kafka>, Option<webhooks::Changes>),
}

/// One account and how far it is followed.
pub struct Follower {
    /// Its mirror.
    pub mirror: Mirror,
    /// How far it has come.
    pub cursor: Cursor,
    /// How its changes are learned.
    pub way: Way,
    /// The rest of what was configured.
    pub settings: CrmSettings,
    /// The wall clock.
    pub now: Clock,
}

impl Follower {
    /// Follows the account until Kafka fails.
    pub async fn run(mut self) -> anyhow::Error {
        let portal = self.mirror.portal.clone();
        let mut patience = Patience::new("the CRM mirror", &portal);
        loop {
            match self.step().await {
                Ok(wait) => {
                    patience.restored();
                    tokio::time::sleep(wait).await;
                }
                Err(trouble) => {
                    if matches!(trouble, Trouble::Lost(_)) {
                        self.cursor.place = None;
                    }
                    if let Err(error) = patience.bear(trouble).await {
                        return error;
                    }
                }
            }
        }
    }

    /// Does what is next; gives back how long there is nothing to do.
    async fn step(&mut self) -> Result<Duration, Trouble> {
        let Some(place) = self.cursor.place.clone().filter(|place| self.way.fits(place)) else {
            let place = self.way.place(&self.mirror, (self.now)()).await?;
            let cursor = Cursor::at(place, self.cursor.loaded_at);
            tracing::info!(
                event = "mirror_loading",
                portal = self.mirror.portal,
                changes = self.settings.changes.name(),
                "the CRM mirror loads everything"
            );
            self.mirror.commit(&cursor).await?;
            self.cursor = cursor;
            return Ok(Duration::ZERO);
        };
        // While pages are loaded, changes are looked at between them, no more often than otherwise.
        let asked = Instant::now();
        let (place, more) = self.way.follow(&mut self.mirror, place, &self.settings, (self.now)()).await?;
        let mut cursor = Cursor { place: Some(place), ..self.cursor.clone() };
        if more {
            return self.advance(cursor, Duration::ZERO).await;
        }
        let every = if matches!(self.way, Way::Webhooks(..)) { LOOK } else { Duration::from_millis(self.settings.every) };
        while let Some(load) = cursor.load.clone() {
            cursor.load = self.mirror.load(&load).await?;
            if cursor.load.is_none() {
                cursor.loaded_at = (self.now)();
                self.mirror.stats.loads.inc();
                tracing::info!(event = "mirror_complete", portal = self.mirror.portal, "the CRM mirror is complete");
            }
            self.advance(cursor.clone(), Duration::ZERO).await?;
            if asked.elapsed() >= every {
                return Ok(Duration::ZERO);
            }
        }
        let now: Ms = (self.now)();
        self.mirror.stats.followed.set(i64::try_from(now / 1_000).unwrap_or(i64::MAX));
        if now >= cursor.loaded_at.saturating_add(self.settings.reload_every()) {
            cursor.load = Some(Load::start(Object::Contacts));
            return self.advance(cursor, Duration::ZERO).await;
        }
        let reload_in = Duration::from_millis(cursor.loaded_at.saturating_add(self.settings.reload_every()) - now);
        self.advance(cursor, every.saturating_sub(asked.elapsed()).min(reload_in)).await
    }

    /// Writes a cursor down if it says something new.
    async fn advance(&mut self, cursor: Cursor, wait: Duration) -> Result<Duration, Trouble> {
        if cursor != self.cursor {
            self.mirror.commit(&cursor).await?;
            self.cursor = cursor;
        }
        Ok(wait)
    }
}

impl Way {
    /// Whether a place is one of this way's.
    fn fits(&self, place: &Place) -> bool {
        matches!(
            (self, place),
            (Way::Search(_), Place::Search { .. }) | (Way::Journal(_), Place::Journal { .. }) | (Way::Webhooks(..), Place::Webhooks(_))
        )
    }

    /// The place of now: all that changes from here on comes after it.
    async fn place(&mut self, mirror: &Mirror, now: Ms) -> Result<Place, Trouble> {
        match self {
            Way::Search(searches) => {
                *searches = Search::default();
                let contacts = search::newest(mirror, Object::Contacts).await?;
                Ok(Place::Search { contacts, deals: search::newest(mirror, Object::Deals).await? })
            }
            Way::Journal(journal) => {
                journal.subscribe().await?;
                Ok(Place::Journal { offset: journal.latest().await?, read_at: now })
            }
            Way::Webhooks(kafka, changes) => {
                *changes = None;
                let kafka = Kafka::clone(kafka);
                let end = tokio::task::spawn_blocking(move || webhooks::end(&kafka)).await;
                let end = end.map_err(|error| Trouble::Later(error.to_string(), None))?;
                Ok(Place::Webhooks(end.map_err(|error| Trouble::Later(format!("Kafka: {error:#}"), None))?))
            }
        }
    }

    /// Reads what has changed after `place`; gives back the place after it, and whether there may be more at once.
    async fn follow(&mut self, mirror: &mut Mirror, place: Place, settings: &CrmSettings, now: Ms) -> Result<(Place, bool), Trouble> {
        match (self, place) {
            (Way::Search(searches), Place::Search { contacts, deals }) => {
                let mut seen = [contacts, deals];
                let more = searches.once(mirror, &mut seen, settings.overlap).await?;
                Ok((Place::Search { contacts: seen[0], deals: seen[1] }, more))
            }
            (Way::Journal(journal), Place::Journal { offset, read_at }) => {
                if now.saturating_sub(read_at) > JOURNAL_FOR {
                    return Err(Trouble::Lost("the journal was not read for as long as HubSpot keeps it".to_owned()));
                }
                match journal.next(offset.as_deref()).await? {
                    // Not at every look: each would be a record.
                    None if now.saturating_sub(read_at) < HOUR => Ok((Place::Journal { offset, read_at }, false)),
                    None => Ok((Place::Journal { offset, read_at: now }, false)),
                    Some(entry) => {
                        mirror.refresh(entry.hints).await?;
                        Ok((Place::Journal { offset: Some(entry.offset), read_at: now }, true))
                    }
                }
            }
            (Way::Webhooks(kafka, changes), Place::Webhooks(next)) => {
                let changes = match changes {
                    Some(changes) => changes,
                    None => changes.insert(webhooks::Changes::new(kafka, &mirror.portal, next).map_err(Trouble::Kafka)?),
                };
                match changes.take()? {
                    None => Ok((Place::Webhooks(next), false)),
                    Some((hints, next)) => {
                        mirror.refresh(hints).await?;
                        changes.done();
                        Ok((Place::Webhooks(next), true))
                    }
                }
            }
            (_, place) => Ok((place, false)),
        }
    }
}
