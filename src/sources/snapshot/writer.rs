//! Writes copies: one thread for the partitions that a worker reads of a topic.

use super::block::{HEAD, Head};
use super::rows::{Encoder, Row};
use super::segment::{Last, Opened, Segment, path};
use crate::model::time::Ms;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Messages that may wait for the thread.
const WAITING: usize = 64;
/// Rows and bytes after which a block is written.
const BLOCK: (u32, usize) = (2_048, 1 << 20);
/// Bytes after which a new file is begun: what the window has left goes file by file.
const SEGMENT: u64 = 32 << 20;
/// How long rows may wait for others before they are written as a smaller block.
const LINGER: Duration = Duration::from_secs(2);
/// How long the disk may be behind before the job goes on without it.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where a copy goes on: a folder, and the first offset that is not in it.
#[derive(Debug)]
pub struct Place {
    pub(super) opened: Opened,
    pub(super) next: i64,
}

enum Message {
    Open(Place),
    Rows(i32, Vec<(Row, Last)>),
}

/// Takes rows of partitions as they are read, to be copied by a thread of its own.
pub struct Recorder {
    sender: Option<SyncSender<Message>>,
    thread: Option<JoinHandle<()>>,
    /// Since when the thread has had no room.
    full: Option<Instant>,
}

impl Recorder {
    /// Starts the thread, or is without one: then nothing is copied. Records are needed for `keep` ms after they were appended.
    pub fn start(name: &str, keep: Option<Ms>) -> Self {
        let started = keep.and_then(|keep| {
            let (sender, messages) = sync_channel(WAITING);
            let writer = Writer { keep, copies: BTreeMap::new() };
            let thread = thread::Builder::new().name(format!("snapshot {name}")).spawn(move || writer.run(&messages));
            thread.map(|thread| (sender, thread)).inspect_err(|error| tracing::warn!(%error, "no snapshots: no thread for them")).ok()
        });
        let (sender, thread) = started.unzip();
        Recorder { sender, thread, full: None }
    }

    /// Whether anything is copied.
    pub fn is_on(&self) -> bool {
        self.sender.is_some()
    }

    /// Begins to copy a partition, or goes on with it.
    pub fn open(&mut self, place: Place) {
        if let Some(sender) = &self.sender
            && sender.send(Message::Open(place)).is_err()
        {
            self.give_up("its thread has ended");
        }
    }

    /// Hands rows over and leaves `rows` empty; `false` when there is no room yet and they are still there.
    pub fn take(&mut self, partition: i32, rows: &mut Vec<(Row, Last)>) -> bool {
        let Some(sender) = self.sender.as_ref().filter(|_| !rows.is_empty()) else {
            rows.clear();
            return true;
        };
        match sender.try_send(Message::Rows(partition, std::mem::take(rows))) {
            Ok(()) => self.full = None,
            Err(TrySendError::Full(message)) => {
                if let Message::Rows(_, back) = message {
                    *rows = back;
                }
                if self.full.get_or_insert_with(Instant::now).elapsed() < PATIENCE {
                    return false;
                }
                self.give_up("the disk does not keep up");
                rows.clear();
            }
            Err(TrySendError::Disconnected(_)) => self.give_up("its thread has ended"),
        }
        true
    }

    /// The job goes on without copies; those that are there end where they end.
    fn give_up(&mut self, why: &str) {
        tracing::warn!(why, "no more snapshots in this run; a restart will read more from Kafka");
        self.sender = None;
        // Not waited for: it may hang in the disk.
        self.thread = None;
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.sender = None;
        // It writes what it has; whoever opens the folder next must find it.
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the snapshots' thread broke down; its message stands above");
        }
    }
}

struct Writer {
    keep: Ms,
    copies: BTreeMap<i32, Growing>,
}

impl Writer {
    fn run(mut self, messages: &Receiver<Message>) {
        loop {
            match messages.recv_timeout(LINGER) {
                Ok(Message::Open(place)) => {
                    let partition = place.opened.spot.partition;
                    match Growing::open(place) {
                        Ok(copy) => drop(self.copies.insert(partition, copy)),
                        Err(error) => complain(partition, &error),
                    }
                }
                Ok(Message::Rows(partition, rows)) => {
                    self.each(|of, copy, keep| if of == partition { copy.append(&rows, keep) } else { copy.flush_old(keep) })
                }
                Err(RecvTimeoutError::Timeout) => self.each(|_, copy, keep| copy.flush_old(keep)),
                Err(RecvTimeoutError::Disconnected) => return self.each(|_, copy, _| copy.flush()),
            }
        }
    }

    /// Does something with every copy; one whose disk fails is given up.
    fn each(&mut self, mut does: impl FnMut(i32, &mut Growing, Ms) -> io::Result<()>) {
        let keep = self.keep;
        self.copies.retain(|partition, copy| does(*partition, copy, keep).inspect_err(|error| complain(*partition, error)).is_ok());
    }
}

fn complain(partition: i32, error: &io::Error) {
    tracing::warn!(partition, %error, "no more snapshots of a partition in this run; a restart will read more from Kafka");
}

/// One partition's copy that grows.
struct Growing {
    opened: Opened,
    file: File,
    encoder: Encoder,
    /// Rows in the encoder.
    rows: u32,
    /// When the first of them came.
    since: Instant,
    last: Last,
    log_time: Ms,
    /// The offset after the last row that is in the file.
    next: i64,
}

impl Growing {
    fn open(place: Place) -> io::Result<Self> {
        let Place { mut opened, next } = place;
        let file = match opened.segments.last() {
            Some(segment) => {
                let mut file = File::options().write(true).open(&segment.path)?;
                file.set_len(segment.len)?;
                io::Seek::seek(&mut file, io::SeekFrom::End(0))?;
                file
            }
            None => begin(&mut opened, next)?,
        };
        Ok(Growing { opened, file, encoder: Encoder::default(), rows: 0, since: Instant::now(), last: Last::default(), log_time: 0, next })
    }

    fn append(&mut self, rows: &[(Row, Last)], keep: Ms) -> io::Result<()> {
        let begins = self.next;
        for (row, last) in rows.iter().filter(|(row, _)| row.offset >= begins) {
            if self.rows == 0 {
                self.since = Instant::now();
            }
            self.encoder.row(row);
            self.rows += 1;
            self.last = *last;
            self.log_time = self.log_time.max(row.log_time);
            if self.rows >= BLOCK.0 || self.encoder.len() >= BLOCK.1 {
                self.flush()?;
                self.roll(keep)?;
            }
        }
        self.flush_old(keep)
    }

    fn flush_old(&mut self, keep: Ms) -> io::Result<()> {
        if self.rows > 0 && self.since.elapsed() >= LINGER {
            self.flush()?;
            self.roll(keep)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        let rows = std::mem::take(&mut self.rows);
        let body = self.encoder.take();
        let len = u32::try_from(body.len()).map_err(|_| io::Error::other("a block of more than 4 GiB"))?;
        let head = Head { len, rows, sum: crc32fast::hash(&body), after: self.next, log_time: self.log_time, last: self.last };
        let mut bytes = head.bytes().to_vec();
        bytes.extend_from_slice(&body);
        self.file.write_all(&bytes)?;
        self.next = head.next();
        if let Some(segment) = self.opened.segments.last_mut() {
            segment.len += HEAD as u64 + u64::from(len);
            segment.rows += u64::from(rows);
            (segment.next, segment.log_time) = (self.next, segment.log_time.max(self.log_time));
        }
        Ok(())
    }

    /// Begins a new file when this one is full, and deletes those that nobody needs any more.
    fn roll(&mut self, keep: Ms) -> io::Result<()> {
        if self.opened.segments.last().is_some_and(|segment| segment.len < SEGMENT) {
            return Ok(());
        }
        self.file = begin(&mut self.opened, self.next)?;
        let needed = self.log_time.saturating_sub(keep);
        while let [oldest, _, ..] = self.opened.segments.as_slice()
            && oldest.log_time < needed
        {
            fs::remove_file(&oldest.path)?;
            self.opened.segments.remove(0);
        }
        Ok(())
    }
}

fn begin(opened: &mut Opened, after: i64) -> io::Result<File> {
    let path = path(&opened.spot.folder, after);
    let mut file = File::create(&path)?;
    file.write_all(opened.spot.label.as_bytes())?;
    let len = opened.spot.label.len() as u64;
    opened.segments.push(Segment { path, after, next: after, log_time: 0, rows: 0, len, last: None });
    Ok(file)
}
