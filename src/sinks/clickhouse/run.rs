//! One topic's way into its table.
//!
//! # Safety of a batch
//! - Its cut is recorded before its rows are sent, so whoever comes after us sends the same offsets under the same number.
//! - A number is used for one cut only, so a token never stands for two sets of rows.
//! - Ids are left out if a batch with a smaller number wrote them. All of those are complete, so the same ids are left out every time.
//! - Therefore a resend is either dropped as a whole, or completes what a killed server had begun, month by month and view by view.

use super::batch::{Cut, Row, first_seq};
use super::exposed::Shared;
use super::outcome::Class;
use super::reader::{Read, Reader};
use super::record::{Key, Raw, Stream};
use super::schema::migrate;
use super::service::{Failure, Service};
use super::settings::Settings;
use super::stats::Stats;
use crate::dead_letters::Sender;
use crate::failpoint;
use crate::kafka::Kafka;
use crate::model::outputs::DeadLetter;
use crate::model::reason;
use crate::model::time;
use crate::stop::Stop;
use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// How long one look at Kafka waits; also how soon a stop is noticed.
const POLL: Duration = Duration::from_millis(50);
/// How often the partitions and their ends are looked up.
const LOOK: Duration = Duration::from_secs(10);
/// Most bytes of a batch's records.
const BATCH_BYTES: usize = 16 * 1024 * 1024;
/// The pause after the first failure; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The process was asked to stop; the batch under way is the next start's.
#[derive(Debug)]
struct Stopped;

/// One topic's thread.
pub struct Run {
    stream: Stream,
    settings: Arc<Settings>,
    service: Service,
    reader: Reader,
    dead_letters: Sender,
    topics: (String, String),
    runtime: Runtime,
    stop: Stop,
    stats: Shared,
    /// The next offset of each partition, and the last number used.
    at: BTreeMap<i32, i64>,
    seq: u64,
}

#[derive(Deserialize)]
struct Last {
    seq: u64,
}

impl Run {
    /// Opens nothing yet.
    ///
    /// # Errors
    /// Options that do not make clients, a password that can't be read.
    pub fn new(stream: Stream, settings: Arc<Settings>, kafka: &Kafka, stop: Stop, stats: Shared) -> anyhow::Result<Self> {
        let source = match stream {
            Stream::Clicks => kafka.topics.clicks.clone(),
            Stream::Deltas(topic) => kafka.topics.output(topic).to_owned(),
        };
        Ok(Run {
            stream,
            service: Service::new(&settings)?,
            settings,
            reader: Reader::new(kafka, stream)?,
            dead_letters: Sender::new(kafka)?,
            topics: (source, kafka.topics.dead_letters.clone()),
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime for the ClickHouse sink")?,
            stop,
            stats,
            at: BTreeMap::new(),
            seq: 0,
        })
    }

    /// Goes on until it is asked to stop.
    pub fn run(mut self) {
        // Only a stop ends it, and then there is nothing to say.
        if let Err(Stopped) = self.go_on() {
            // A name that is being looked up is nobody's business any more.
            self.runtime.shutdown_background();
        }
    }

    fn go_on(&mut self) -> Result<(), Stopped> {
        if self.settings.migrate {
            self.insist("its tables can't be made", |run| run.answer(migrate(&run.service, &run.settings)).map(drop))?;
        }
        let (last, seq) = self.insist("its last batch can't be read", Run::last)?;
        self.seq = seq;
        if let Some(cut) = last {
            self.again(&cut)?;
        }
        loop {
            self.look()?;
            let until = Instant::now() + LOOK;
            while Instant::now() < until {
                match self.gather()? {
                    Some(records) => self.take(&records)?,
                    // Partitions are not where they were.
                    None => break,
                }
            }
        }
    }

    fn stats(&self) -> MutexGuard<'_, Stats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last cut that was recorded, and the number to count from.
    fn last(&mut self) -> anyhow::Result<(Option<Cut>, u64)> {
        let bound = [("topic", self.stream.word())];
        let of = if self.stream == Stream::Clicks { "" } else { " WHERE topic = {topic:String}" };
        let written = format!("SELECT max(batch) AS seq FROM {}{of} FORMAT JSONEachRow", self.stream.table());
        let recorded = "SELECT topic, seq, partitions, first, next FROM batches WHERE topic = {topic:String} \
                        ORDER BY seq DESC LIMIT 1 FORMAT JSONEachRow";
        self.answer(async {
            let rows: Vec<Row> = self.service.rows(recorded, &bound).await?;
            let last = rows.into_iter().next().map(Cut::from);
            let written: Vec<Last> = self.service.rows(&written, &bound).await?;
            let most = written.first().map_or(0, |row| row.seq).max(last.as_ref().map_or(0, |cut| cut.seq));
            Ok((last, first_seq(most)))
        })
    }

    /// Sends the last recorded batch once more: nobody knows whether it arrived.
    fn again(&mut self, cut: &Cut) -> Result<(), Stopped> {
        self.at = cut.ranges.iter().map(|(partition, (first, _))| (*partition, *first)).collect();
        let mut open: BTreeMap<i32, i64> = BTreeMap::new();
        let ends = self.insist("the topic can't be read", |run| run.reader.partitions())?;
        let mut from = BTreeMap::new();
        for (partition, first, next) in cut.taken() {
            match ends.get(&partition) {
                Some((begin, end)) if *end >= next => {
                    let first = first.max(*begin);
                    if first < next {
                        from.insert(partition, first);
                        open.insert(partition, next);
                    }
                }
                // Made anew: `look` says so.
                _ => {}
            }
        }
        self.insist("the topic can't be read", |run| run.reader.assign(&from))?;
        let mut records = Vec::new();
        while !open.is_empty() {
            self.go()?;
            match self.reader.poll(POLL) {
                Read::Record(raw, _) => {
                    let Some(next) = open.get(&raw.partition).copied() else { continue };
                    if raw.offset + 1 >= next {
                        open.remove(&raw.partition);
                    }
                    if raw.offset < next {
                        records.push(raw);
                    }
                }
                Read::End(partition) => drop(open.remove(&partition)),
                // Deleted between the look and now: what is left of it cannot be read.
                Read::Astray => break,
                Read::Nothing => {}
            }
        }
        match self.insert(cut, &records)? {
            Ok(()) => self.at = cut.next(),
            Err(_) => {
                self.halves(&records)?;
                self.at = cut.next();
            }
        }
        Ok(())
    }

    /// Looks where the partitions begin and end, and reads on from where we are.
    fn look(&mut self) -> Result<(), Stopped> {
        let ends = self.insist("the topic can't be read", |run| run.reader.partitions())?;
        let mut lag = 0;
        for (partition, (begin, end)) in ends {
            let at = self.at.entry(partition).or_insert(begin);
            if *at < begin {
                let lost = u64::try_from(begin - *at).unwrap_or(0);
                tracing::error!(
                    event = "clickhouse_records_lost",
                    topic = self.topics.0,
                    partition,
                    "up to {lost} records were deleted before ClickHouse had them"
                );
                self.stats.lock().unwrap_or_else(PoisonError::into_inner).lost += lost;
                *at = begin;
            } else if *at > end {
                tracing::error!(
                    event = "topic_made_anew",
                    topic = self.topics.0,
                    partition,
                    "it ends at offset {end}, but had been read up to {at}: it was made anew, and is read from its beginning"
                );
                *at = begin;
            }
            lag += u64::try_from(end - *at).unwrap_or(0);
        }
        self.stats().lag = lag;
        let at = self.at.clone();
        self.insist("the topic can't be read", |run| run.reader.assign(&at))
    }

    /// Collects a batch's records: until it is full, or its first record has waited. `None`: look where the partitions are.
    fn gather(&mut self) -> Result<Option<Vec<Raw>>, Stopped> {
        let (mut records, mut bytes, mut oldest) = (Vec::new(), 0, 0);
        let wait = Duration::from_millis(self.settings.batch_wait.0);
        let began = Instant::now();
        let mut first = began;
        loop {
            self.go()?;
            match self.reader.poll(POLL) {
                Read::Record(raw, appended) => {
                    if records.is_empty() {
                        (first, oldest) = (Instant::now(), appended);
                        self.stats().oldest_at = oldest;
                    }
                    bytes += raw.payload.len();
                    records.push(raw);
                }
                Read::Astray => return Ok(None),
                Read::End(_) | Read::Nothing => {}
            }
            let full = records.len() >= self.settings.batch_rows || bytes >= BATCH_BYTES;
            if full || (!records.is_empty() && first.elapsed() >= wait) {
                let mut stats = self.stats();
                stats.read += records.len() as u64;
                stats.oldest_at = oldest;
                drop(stats);
                return Ok(Some(records));
            }
            if records.is_empty() && began.elapsed() >= LOOK {
                return Ok(None);
            }
        }
    }

    /// Brings records into the table, or, one that is refused for good, to the dead letters.
    fn take(&mut self, records: &[Raw]) -> Result<(), Stopped> {
        if records.is_empty() {
            return Ok(());
        }
        let mut ranges: BTreeMap<i32, (i64, i64)> = self.at.iter().map(|(partition, at)| (*partition, (*at, *at))).collect();
        for raw in records {
            let range = ranges.entry(raw.partition).or_insert((raw.offset, raw.offset));
            range.1 = range.1.max(raw.offset + 1);
        }
        self.seq += 1;
        let cut = Cut { seq: self.seq, ranges };
        self.record(&cut)?;
        failpoint::hit("clickhouse.recorded");
        match self.insert(&cut, records)? {
            Ok(()) => {}
            Err(_) if records.len() > 1 => return self.halves(records),
            Err(failure) => self.bury(&records[0], &failure)?,
        }
        failpoint::hit("clickhouse.inserted");
        let mut stats = self.stats();
        stats.lag = stats.lag.saturating_sub(records.len() as u64);
        stats.oldest_at = 0;
        drop(stats);
        self.at = cut.next();
        Ok(())
    }

    /// A row is to blame: both halves as batches of their own.
    fn halves(&mut self, records: &[Raw]) -> Result<(), Stopped> {
        match records {
            [] => Ok(()),
            [one] => self.take(std::slice::from_ref(one)),
            _ => {
                let (left, right) = records.split_at(records.len() / 2);
                self.take(left)?;
                self.take(right)
            }
        }
    }

    /// Records where a batch is cut.
    fn record(&mut self, cut: &Cut) -> Result<(), Stopped> {
        let row = serde_json::to_vec(&cut.row(self.stream.word())).unwrap_or_default();
        let token = cut.token(self.stream.word());
        let sent = self.send("a batch can't be recorded", |service| service.insert("batches", &token, row.clone()))?;
        // It has no rows of anybody's: whatever the refusal says, it is tried again.
        match sent {
            Ok(()) => Ok(()),
            Err(_) => {
                self.pause(10)?;
                self.record(cut)
            }
        }
    }

    /// Inserts a batch, however often it takes; `Err`: a row is to blame.
    fn insert(&mut self, cut: &Cut, records: &[Raw]) -> Result<Result<(), Failure>, Stopped> {
        let (mut keys, mut rows, mut malformed) = (HashSet::new(), Vec::with_capacity(records.len()), 0);
        for raw in records {
            match self.stream.row(raw, cut.seq) {
                Some((key, line)) if keys.insert(key.clone()) => rows.push((key, line)),
                Some(_) => self.stats().known += 1,
                None => malformed += 1,
            }
        }
        self.stats().malformed += malformed;
        let asked = lines(rows.iter().map(|(key, _)| serde_json::to_vec(key).unwrap_or_default()));
        let seq = cut.seq.to_string();
        let (sql, structure) = match self.stream {
            Stream::Clicks => (
                "SELECT workspace, id FROM clicks WHERE (workspace, id) IN (SELECT workspace, id FROM given) \
                 AND batch < {seq:UInt64} FORMAT JSONEachRow",
                "portal String, workspace String, id String",
            ),
            Stream::Deltas(_) => (
                "SELECT portal, workspace, id FROM deltas WHERE topic = {topic:String} \
                 AND (portal, workspace, id) IN (SELECT portal, workspace, id FROM given) AND batch < {seq:UInt64} FORMAT JSONEachRow",
                "portal String, workspace String, id String",
            ),
        };
        let word = self.stream.word();
        let known: Vec<Key> = if rows.is_empty() {
            Vec::new()
        } else {
            let bound = [("seq", &*seq), ("topic", word)];
            match self.send("known ids can't be looked up", |service| service.with_rows(sql, &bound, structure, &asked))? {
                Ok(known) => known,
                Err(failure) => return Ok(Err(failure)),
            }
        };
        let known: HashSet<Key> = known.into_iter().collect();
        let new: Vec<&Vec<u8>> = rows.iter().filter(|(key, _)| !known.contains(key)).map(|(_, line)| line).collect();
        self.stats().known += (rows.len() - new.len()) as u64;
        if new.is_empty() {
            return Ok(Ok(()));
        }
        let (body, token, table) =
            (new.iter().flat_map(|line| line.iter().copied()).collect::<Vec<u8>>(), cut.token(word), self.stream.table());
        let sent = self.send("a batch can't be inserted", |service| service.insert(table, &token, body.clone()))?;
        if sent.is_ok() {
            let mut stats = self.stats();
            stats.rows += new.len() as u64;
            stats.batches += 1;
            stats.last_at = time::now();
        }
        Ok(sent)
    }

    /// Puts a refused record among the dead letters. A crash right after it puts it there twice.
    fn bury(&mut self, raw: &Raw, failure: &Failure) -> Result<(), Stopped> {
        let letter = DeadLetter {
            v: 1,
            reason: reason::CLICKHOUSE.to_owned(),
            // Its code and the code's name: what else it says may quote the row.
            detail: format!("{failure}; the row is this record's"),
            source: self.topics.0.clone(),
            partition: raw.partition,
            offset: raw.offset,
            key_base64: None,
            payload_base64: STANDARD.encode(&raw.payload),
            at: time::now(),
        };
        let value = serde_json::to_vec(&letter).unwrap_or_default();
        tracing::error!(
            event = "clickhouse_record_refused",
            topic = self.topics.0,
            partition = raw.partition,
            offset = raw.offset,
            "ClickHouse refuses a record; it is a dead letter now"
        );
        self.insist("a dead letter can't be written", |run| run.dead_letters.send(&run.topics.1, Some(run.topics.0.as_bytes()), &value))?;
        self.stats().refused += 1;
        Ok(())
    }

    /// A request, again and again until it is answered for good; `Err`: a row is to blame.
    fn send<'a, T, F>(&'a self, what: &str, mut request: impl FnMut(&'a Service) -> F) -> Result<Result<T, Failure>, Stopped>
    where
        F: Future<Output = Result<T, Failure>> + 'a,
    {
        for failures in 1.. {
            let answer = self.runtime.block_on(async {
                tokio::select! {
                    answer = request(&self.service) => Some(answer),
                    () = stopped(&self.stop) => None,
                }
            });
            let failure = match answer {
                None => return Err(Stopped),
                Some(Ok(answer)) => {
                    self.stats().trouble = None;
                    return Ok(Ok(answer));
                }
                Some(Err(failure)) => failure,
            };
            let class = failure.class();
            self.stats().failed(class, failure.code(), time::now());
            match class {
                Class::Rows => return Ok(Err(failure)),
                Class::Setup => tracing::error!(
                    event = "clickhouse_table_unfit",
                    topic = self.topics.0,
                    "{what}: {:#}; `clickline clickhouse migrate --check` says what is missing; still trying",
                    anyhow::Error::from(failure)
                ),
                Class::Transient => {
                    tracing::warn!(
                        event = "clickhouse_write_failed",
                        topic = self.topics.0,
                        failures,
                        "{what}: {:#}; still trying",
                        anyhow::Error::from(failure)
                    )
                }
            }
            self.pause(failures)?;
        }
        Err(Stopped)
    }

    /// Something other than a batch, again and again.
    fn insist<T>(&mut self, what: &str, mut ask: impl FnMut(&mut Self) -> anyhow::Result<T>) -> Result<T, Stopped> {
        for failures in 1.. {
            self.go()?;
            match ask(self) {
                Ok(answer) => {
                    self.stats().trouble = None;
                    return Ok(answer);
                }
                Err(_) if self.stop.asked() => return Err(Stopped),
                Err(error) => {
                    let failure = error.downcast_ref::<Failure>();
                    let class = failure.map_or(Class::Transient, Failure::class);
                    self.stats().failed(class, failure.and_then(Failure::code), time::now());
                    match class {
                        Class::Setup => tracing::error!(
                            event = "clickhouse_read_failed",
                            topic = self.topics.0,
                            "ClickHouse sink: {what}: {error:#}; still trying"
                        ),
                        _ => tracing::warn!(
                            event = "clickhouse_read_failed",
                            topic = self.topics.0,
                            failures,
                            "ClickHouse sink: {what}: {error:#}; still trying"
                        ),
                    }
                }
            }
            self.pause(failures)?;
        }
        Err(Stopped)
    }

    /// Waits for an answer of ClickHouse's, but not beyond a stop.
    fn answer<T>(&self, asked: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        self.runtime.block_on(async {
            tokio::select! {
                answer = asked => answer,
                () = stopped(&self.stop) => Err(anyhow::anyhow!("stopped before ClickHouse answered")),
            }
        })
    }

    fn go(&self) -> Result<(), Stopped> {
        if self.stop.asked() { Err(Stopped) } else { Ok(()) }
    }

    /// Waits after so many failures in a row: doubled each time, between half and all of it.
    fn pause(&self, failures: u32) -> Result<(), Stopped> {
        let doubled = FIRST_PAUSE.saturating_mul(1 << failures.clamp(1, 16).saturating_sub(1)).min(LONGEST_PAUSE);
        let until = Instant::now() + doubled.mul_f64(0.5 + 0.5 * rand::random::<f64>());
        while Instant::now() < until {
            self.go()?;
            std::thread::sleep(POLL.min(until.saturating_duration_since(Instant::now())));
        }
        self.go()
    }
}

fn lines(each: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    each.flat_map(|line| line.into_iter().chain(std::iter::once(b'\n'))).collect()
}

async fn stopped(stop: &Stop) {
    while !stop.asked() {
        tokio::time::sleep(POLL).await;
    }
}
