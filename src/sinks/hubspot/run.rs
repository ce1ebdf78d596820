//! The sink's loop: read, plan, send, settle, commit.
//!
//! ```text
//!  readers (a thread a topic) ──► intake ──► lanes of each account ──► batches ──► tasks ──► HubSpot
//!                                   │ ledger: seen before                            │ fates
//!                                   ▼                                                ▼
//!                                  skip          one SQLite transaction ◄── settlement
//! ```
//!
//! One task owns all of this and is the only one that writes to the state database (tokens apart); requests run beside it.
//!
//! # Limits
//! At most `held` records a lane in memory, about 2 KB each, in equal shares for the accounts. A sole account that does not keep up stops
//! the reading; of several, one that has filled its share is held back (`behind.rs`), so that none waits for another.

use super::account::Account;
use super::dead_letters::{DeadLetters, Published};
use super::lanes::Batch;
use super::overwritten::Moved;
use super::reader::Read;
use super::record::Lane;
use super::service::Service;
use super::settings::Settings;
use super::stats::Stats;
use super::work::{Desk, Report};
use super::{contacts, emails, entries, events, prepare, stages};
use crate::kafka::Kafka;
use crate::model::time::{Ms, now as wall_ms};
use crate::state::{ALIVE_EVERY, Erased, LedgerKey, Settlement, State};
use anyhow::Context;
use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// How often parked records, the ledger's age and the counters are looked at.
const CHORES: Duration = Duration::from_secs(1);

/// How to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Go on.
    No,
    /// Let requests in flight finish, commit, end.
    Gently,
    /// End here and now, as a crash would. For tests.
    Dead,
}

/// What came of a task.
pub enum Done {
    /// Deals.
    Stages(String, Report<entries::Stages>),
    /// E-mail addresses.
    Emails(String, Report<entries::Addressed>),
    /// Contacts.
    Contacts(String, Report<entries::Properties>),
    /// Events.
    Events(String, Report<entries::Event>),
    /// An account's template and properties, or what is in the way.
    Prepared(String, prepare::Prepared),
    /// What came of publishing the dead letters of so many commits.
    Published(u64, anyhow::Result<Published>),
    /// Records that were held back.
    Behind(super::behind::Chunk),
    /// Deals whose move has overwritten a person's, with the stage that it replaced.
    Overwritten(String, Vec<(Moved, String)>),
}

/// Everything the loop owns.
pub struct Run {
    pub(super) settings: Arc<Settings>,
    pub(super) kafka: Kafka,
    pub(super) state: Arc<State>,
    pub(super) service: Arc<Service>,
    pub(super) dead_letters: Arc<DeadLetters>,
    /// Topic names in the order of [`Lane::ALL`].
    pub(super) topics: [String; 3],
    pub(super) accounts: BTreeMap<String, Account>,
    pub(super) tracker: super::tracker::Tracker,
    /// Who was erased, as far as is known.
    pub(super) erased: Erased,
    /// What the next commit holds.
    pub(super) settlement: Settlement,
    /// Parked records in memory, by account.
    pub(super) loaded: BTreeMap<String, HashSet<LedgerKey>>,
    /// Portals and addresses that have a contact now.
    pub(super) appeared: Vec<(String, String)>,
    /// Batches that were sent without an answer.
    pub(super) sends: u64,
    /// Lanes of which records that were held back are being read again.
    pub(super) reading_again: [bool; 3],
    /// By lane, the account whose records were read again last.
    pub(super) read_again_last: [String; 3],
    pub(super) stats: Stats,
    shared: Arc<Mutex<Stats>>,
    /// Batches under way.
    work: JoinSet<Done>,
    /// Everything else under way; not waited for at a stop.
    pub(super) chores: JoinSet<Done>,
    /// Per lane, the partitions and whether they were read to their end.
    pub(super) ends: [BTreeMap<i32, bool>; 3],
    pub(super) publishing: bool,
    /// Rounds of publishing that failed, since the last that did not; and no round before this.
    pub(super) publish_failures: u32,
    pub(super) publish_at: Instant,
    /// Commits that held dead letters.
    pub(super) dead_commits: u64,
    /// Whether the dead letters of all of them are on their topic.
    pub(super) published: bool,
    /// When parked records are looked for next that nobody looks after.
    pub(super) orphans_at: Instant,
    /// Accounts that this sink does not serve and of which that was said.
    pub(super) strangers: HashSet<String>,
    chores_at: Instant,
    committed_at: Instant,
    /// When it is noted next that the sink runs.
    pub(super) alive_at: Instant,
    /// When the loop looked at the clock last, once a turn; ms since the Unix epoch.
    pub(super) looked_at: Ms,
}

/// What wakes the loop.
enum Event {
    Stop,
    Done(Result<Done, tokio::task::JoinError>),
    Read(Lane, Option<Read>),
    Time,
}

impl Run {
    /// Nothing read yet.
    pub fn new(
        settings: Arc<Settings>,
        kafka: Kafka,
        state: Arc<State>,
        service: Arc<Service>,
        dead_letters: DeadLetters,
        portals: &[String],
        shared: Arc<Mutex<Stats>>,
    ) -> Self {
        let now = Instant::now();
        let topics = Lane::ALL.map(|lane| kafka.topics.output(lane.topic()).to_owned());
        Run {
            accounts: portals.iter().map(|portal| (portal.clone(), Account::default())).collect(),
            settings,
            kafka,
            state,
            service,
            dead_letters: Arc::new(dead_letters),
            topics,
            tracker: super::tracker::Tracker::default(),
            erased: Erased::default(),
            settlement: Settlement::default(),
            loaded: BTreeMap::new(),
            appeared: Vec::new(),
            sends: 0,
            reading_again: [false; 3],
            read_again_last: Default::default(),
            stats: Stats::default(),
            shared,
            work: JoinSet::new(),
            chores: JoinSet::new(),
            ends: Default::default(),
            publishing: false,
            publish_failures: 0,
            publish_at: now,
            dead_commits: 0,
            published: false,
            orphans_at: now,
            strangers: HashSet::new(),
            chores_at: now,
            committed_at: now,
            alive_at: now + ALIVE_EVERY,
            looked_at: wall_ms(),
        }
    }

    pub(super) fn topic(&self, lane: Lane) -> &str {
        &self.topics[lane.index()]
    }

    pub(super) fn with(&mut self, portal: &str, change: impl FnOnce(&mut Account)) {
        if let Some(account) = self.accounts.get_mut(portal) {
            change(account);
        }
    }

    /// Runs until it is stopped.
    ///
    /// # Errors
    /// When the state database fails: what was not committed is done again after a restart.
    pub async fn run(mut self, mut readers: [mpsc::Receiver<Read>; 3], mut stop: watch::Receiver<Stop>) -> anyhow::Result<Stats> {
        for account in self.accounts.values_mut() {
            account.preparation.wish(Instant::now());
        }
        loop {
            let now = Instant::now();
            self.look_at_erasures()?;
            if now >= self.chores_at {
                self.chores_at = now + CHORES;
                self.look_around(now)?;
            }
            self.prepare(now);
            // Before planning: which click a value was written from is looked up in the database.
            self.commit(now)?;
            self.plan(now)?;
            self.commit(now)?;
            self.publish(now);
            self.tell(readers.iter().all(mpsc::Receiver::is_empty));
            let wake = self.wake_at(now);
            let [stages, properties, events] = &mut readers;
            let room = Lane::ALL.map(|lane| self.tracker.outstanding(lane) < self.share() * self.accounts.len());
            let event = tokio::select! {
                biased;
                _ = stop.changed() => Event::Stop,
                Some(done) = self.work.join_next() => Event::Done(done),
                Some(done) = self.chores.join_next() => Event::Done(done),
                read = stages.recv(), if room[0] => Event::Read(Lane::Stages, read),
                read = properties.recv(), if room[1] => Event::Read(Lane::Properties, read),
                read = events.recv(), if room[2] => Event::Read(Lane::Events, read),
                () = tokio::time::sleep_until(wake.into()) => Event::Time,
            };
            // Before what was under way is judged by the clock.
            self.look_at_clock()?;
            match event {
                Event::Stop => break,
                Event::Done(done) => self.done(done)?,
                Event::Time => {}
                Event::Read(lane, read) => {
                    let Some(first) = read else { anyhow::bail!("the reader of {} has ended", self.topic(lane)) };
                    self.take_in(lane, first)?;
                    // A few at a time, so that answers don't wait for a long topic.
                    for _ in 0..256 {
                        let Ok(read) = readers[lane.index()].try_recv() else { break };
                        self.take_in(lane, read)?;
                    }
                }
            }
        }
        if *stop.borrow() == Stop::Dead {
            return Ok(self.stats);
        }
        drop(readers);
        self.end().await
    }

    /// Lets what is in flight finish, commits, and brings the dead letters to their topic: all of it by one deadline.
    async fn end(mut self) -> anyhow::Result<Stats> {
        self.service.stop();
        let deadline = tokio::time::Instant::now() + self.settings.stop_grace;
        while let Ok(Some(done)) = tokio::time::timeout_at(deadline, self.work.join_next()).await {
            self.done(done)?;
            self.commit(Instant::now())?;
        }
        self.commit(Instant::now())?;
        self.state.alive(wall_ms())?;
        if !self.work.is_empty() {
            tracing::warn!(
                event = "hubspot_stopped_in_flight",
                batches = self.work.len(),
                "stopped with requests in flight; their records are read again at the next start"
            );
        }
        // Kept in the database when it fails, or when HubSpot has taken all the time there was.
        let _ = tokio::time::timeout_at(deadline, self.dead_letters.publish()).await;
        self.tell(true);
        Ok(self.stats)
    }

    /// Sends what may be sent.
    fn plan(&mut self, now: Instant) -> anyhow::Result<()> {
        for portal in self.accounts.keys().cloned().collect::<Vec<_>>() {
            while let Some(account) = self.accounts.get_mut(&portal)
                && let Some(batch) = account.next(&portal, &self.service, self.settings.linger, self.settings.concurrency, now)
            {
                let batch = match batch {
                    Batch::Contacts(batch) => Batch::Contacts(self.worth_writing(&portal, batch)?),
                    batch => batch,
                };
                if !matches!(&batch, Batch::Contacts(batch) if batch.is_empty()) {
                    self.send(portal.clone(), batch);
                }
            }
        }
        Ok(())
    }

    /// Takes out what the account refuses, and what a newer click has overtaken; settles contacts of which nothing is left.
    fn worth_writing(
        &mut self,
        portal: &str,
        batch: Vec<super::queue::Entry<entries::Properties>>,
    ) -> anyhow::Result<Vec<super::queue::Entry<entries::Properties>>> {
        let mut worth = Vec::with_capacity(batch.len());
        for mut entry in batch {
            self.with(portal, |account| {
                entry.value.refuse(&account.refused);
            });
            let mut overtaken = Vec::new();
            for (name, change) in &entry.value.changes {
                if self.state.contact_value(portal, &entry.key, name)?.is_some_and(|written| written >= change.from) {
                    overtaken.push(name.clone());
                }
            }
            overtaken.iter().for_each(|name| drop(entry.value.changes.remove(name)));
            if entry.value.changes.is_empty() {
                self.written(&entry.value, "superseded");
                self.with(portal, |account| account.lanes.contacts.release(&entry.key));
            } else {
                worth.push(entry);
            }
        }
        Ok(worth)
    }

    fn send(&mut self, portal: String, batch: Batch) {
        let (service, settings) = (Arc::clone(&self.service), Arc::clone(&self.settings));
        let lane = match &batch {
            Batch::Stages(_) => Lane::Stages,
            Batch::Emails(_) | Batch::Contacts(_) => Lane::Properties,
            Batch::Events(_) => Lane::Events,
        };
        let mut event_api = None;
        self.with(&portal, |account| {
            account.in_flight[lane.index()] += 1;
            event_api = account.event_api.clone();
        });
        self.work.spawn_local(async move {
            let desk = Desk { service: &service, paths: &settings.paths, portal: &portal };
            let create = settings.portals.get(&portal).is_some_and(|portal| portal.create_contacts);
            match (batch, event_api) {
                (Batch::Stages(batch), _) => Done::Stages(portal.clone(), stages::write(desk, batch).await),
                (Batch::Emails(batch), _) => Done::Emails(portal.clone(), emails::find(desk, create, batch).await),
                (Batch::Contacts(batch), _) => Done::Contacts(portal.clone(), contacts::write(desk, batch).await),
                (Batch::Events(batch), Some(api)) => Done::Events(portal.clone(), events::write(desk, &api, batch).await),
                (Batch::Events(_), None) => unreachable!("events are sent once it is known what takes them"),
            }
        });
    }

    fn done(&mut self, done: Result<Done, tokio::task::JoinError>) -> anyhow::Result<()> {
        let now = Instant::now();
        match done.context("a task of the HubSpot sink has failed")? {
            Done::Stages(portal, report) => self.stages_done(&portal, report, now),
            Done::Emails(portal, report) => self.emails_done(&portal, report, now),
            Done::Contacts(portal, report) => self.contacts_done(&portal, report, now),
            Done::Events(portal, report) => self.events_done(&portal, report, now),
            Done::Prepared(portal, prepared) => self.prepared(&portal, prepared, now),
            Done::Published(commits, result) => self.was_published(commits, result?, now),
            Done::Behind(chunk) => self.again_read(chunk)?,
            Done::Overwritten(portal, moves) => self.overwrote(&portal, &moves),
        }
        Ok(())
    }

    /// Commits what is settled.
    ///
    /// # Safety
    /// - Everything in the settlement has happened: HubSpot has answered, or the decision not to write was made.
    /// - The offsets pass only records that are in this settlement, in an earlier one, or skipped because the ledger has them.
    /// - Therefore a crash before this line repeats writes that are idempotent, and a crash after it repeats nothing.
    fn commit(&mut self, now: Instant) -> anyhow::Result<()> {
        let moved = self.tracker.moved();
        // Offsets alone can wait: to read a skipped record again costs a look into the ledger.
        let due = now.saturating_duration_since(self.committed_at) >= Duration::from_millis(200);
        if self.settlement.is_empty() && (moved.is_empty() || !due) {
            return Ok(());
        }
        if !self.settlement.dead.is_empty() {
            self.dead_commits += 1;
            self.published = false;
        }
        self.settlement.offsets = moved.iter().map(|(lane, partition, next)| (self.topic(*lane).to_owned(), *partition, *next)).collect();
        let failed = "the state database can't be written";
        while !self.state.settle_unless_erased(&self.settlement, &self.erased, wall_ms()).context(failed)? {
            // Somebody was erased since the last look; what waits to be committed may name them.
            self.look_at_erasures()?;
        }
        let settlement = std::mem::take(&mut self.settlement);
        self.stats.parked = if settlement.park.is_empty() { self.stats.parked } else { self.state.parked_count()? };
        self.tracker.committed(&moved);
        self.committed_at = now;
        self.alive_at = now + ALIVE_EVERY;
        Ok(())
    }

    fn wake_at(&self, now: Instant) -> Instant {
        let linger = self.settings.linger;
        let next = self.accounts.iter().filter_map(|(portal, a)| a.next_at(portal, &self.service, linger, self.settings.concurrency, now));
        let preparations = self.accounts.values().filter_map(|account| account.preparation.next_at());
        next.chain(preparations).chain([self.chores_at, now + Duration::from_millis(250)]).min().map_or(now, |at| at.max(now))
    }

    /// Publishes the counters.
    fn tell(&mut self, channels_empty: bool) {
        let load = Ordering::Relaxed;
        let outstanding: usize = Lane::ALL.iter().map(|lane| self.tracker.outstanding(*lane)).sum();
        self.stats.held_back = self.tracker.held_back_count();
        self.stats.lag = (outstanding + self.loaded.values().map(HashSet::len).sum::<usize>()) as u64 + self.stats.held_back;
        self.stats.calls = self.service.calls.load(load);
        self.stats.rate_limited = self.service.rate_limited.load(load);
        self.stats.refreshes = self.service.refreshes();
        self.stats.suspended = self.accounts.values().filter(|account| account.suspended()).count() as u64;
        let read = self.ends.iter().all(|lane| !lane.is_empty() && lane.values().all(|end| *end));
        let settled = self.stats.lag == 0 && self.work.is_empty() && self.published && self.settlement.is_empty();
        self.stats.caught_up = read && channels_empty && settled && self.tracker.moved().is_empty();
        *self.shared.lock().unwrap_or_else(PoisonError::into_inner) = self.stats;
    }
}
