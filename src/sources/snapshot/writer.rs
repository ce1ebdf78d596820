//! Writes copies: one thread for the partitions that a worker reads of a topic.

use super::block::{HEAD, Head};
use super::rows::{Encoder, Row};
use super::segment::{Last, Opened, Segment, path};
use crate::model::time::Ms;
use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Messages, and bytes of what they hold, that may wait for the thread.
const WAITING: (usize, usize) = (64, 64 << 20);
/// How long a job that ends waits for the disk.
const FAREWELL: Duration = Duration::from_secs(3);
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

/// Takes rows of partitions as they are read, to be copied by a thread of its own; never waits for it.
pub struct Recorder {
    sender: Option<SyncSender<Message>>,
    thread: Option<JoinHandle<()>>,
    /// Partitions that are to be opened as soon as there is room.
    opening: VecDeque<Place>,
    /// Bytes that wait for the thread.
    waiting: Arc<AtomicUsize>,
    /// Since when the thread has had no room.
    full: Option<Instant>,
}

impl Recorder {
    /// Starts the thread, or is without one: then nothing is copied. Records are needed for `keep` ms after they were appended.
    pub fn start(name: &str, keep: Option<Ms>) -> Self {
        let waiting = Arc::new(AtomicUsize::new(0));
        let started = keep.and_then(|keep| {
            let (sender, messages) = sync_channel(WAITING.0);
            let writer = Writer { keep, copies: BTreeMap::new(), waiting: Arc::clone(&waiting) };
            let thread = thread::Builder::new().name(format!("snapshot {name}")).spawn(move || writer.run(&messages));
            thread
                .map(|thread| (sender, thread))
                .inspect_err(|error| tracing::warn!(event = "snapshot_not_written", %error, "no snapshots: no thread for them"))
                .ok()
        });
        let (sender, thread) = started.unzip();
        Recorder { sender, thread, opening: VecDeque::new(), waiting, full: None }
    }

    /// Whether anything is copied.
    pub fn is_on(&self) -> bool {
        self.sender.is_some()
    }

    /// Begins to copy a partition, or goes on with it.
    pub fn open(&mut self, place: Place) {
        if self.is_on() {
            self.opening.push_back(place);
        }
    }

    /// Hands rows over and leaves `rows` empty; `false` when there is no room yet and they are still there.
    pub fn take(&mut self, partition: i32, rows: &mut Vec<(Row, Last)>) -> bool {
        if rows.is_empty() || !self.is_on() {
            rows.clear();
            return true;
        }
        while let Some(place) = self.opening.pop_front() {
            if let Some(Message::Open(place)) = self.send(Message::Open(place)) {
                self.opening.push_front(place);
                return self.is_full(rows);
            }
        }
        let bytes = rows.iter().map(|(row, _)| row.bytes).sum();
        // One message may always wait, however large it is.
        if self.waiting.load(Ordering::Relaxed) > WAITING.1 {
            return self.is_full(rows);
        }
        self.waiting.fetch_add(bytes, Ordering::Relaxed);
        match self.send(Message::Rows(partition, std::mem::take(rows))) {
            Some(Message::Rows(_, back)) => {
                self.waiting.fetch_sub(bytes, Ordering::Relaxed);
                *rows = back;
                self.is_full(rows)
            }
            _ => {
                self.full = None;
                true
            }
        }
    }

    /// Sends, or gives back what there is no room for.
    fn send(&mut self, message: Message) -> Option<Message> {
        match self.sender.as_ref()?.try_send(message) {
            Ok(()) => None,
            Err(TrySendError::Full(message)) => Some(message),
            Err(TrySendError::Disconnected(_)) => {
                self.give_up("its thread has ended");
                None
            }
        }
    }

    /// There is no room: rows wait, unless that has lasted for too long.
    fn is_full(&mut self, rows: &mut Vec<(Row, Last)>) -> bool {
        if self.full.get_or_insert_with(Instant::now).elapsed() < PATIENCE {
            return false;
        }
        self.give_up("the disk does not keep up");
        rows.clear();
        true
    }

    /// The job goes on without copies; those that are there end where they end.
    fn give_up(&mut self, why: &str) {
        tracing::warn!(event = "snapshot_not_written", why, "no more snapshots in this run; a restart will read more from Kafka");
        self.sender = None;
        self.opening.clear();
        // Not waited for: it may hang in the disk.
        self.thread = None;
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.sender = None;
        let Some(thread) = self.thread.take() else { return };
        // It writes what it has: whoever opens the folder next must find it. But a disk that hangs must not keep the job.
        let began = Instant::now();
        while !thread.is_finished() && began.elapsed() < FAREWELL {
            thread::sleep(Duration::from_millis(1));
        }
        if !thread.is_finished() {
            tracing::warn!(
                event = "snapshot_not_written",
                "the disk does not take the last of the snapshots; a restart will read that from Kafka"
            );
        } else if thread.join().is_err() {
            tracing::warn!(event = "thread_panicked", "the snapshots' thread broke down; its message stands above");
        }
    }
}

struct Writer {
    keep: Ms,
    waiting: Arc<AtomicUsize>,
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
                    self.each(|of, copy, keep| if of == partition { copy.append(&rows, keep) } else { copy.flush_old(keep) });
                    let bytes = rows.iter().map(|(row, _)| row.bytes).sum();
                    drop(rows);
                    self.waiting.fetch_sub(bytes, Ordering::Relaxed);
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
    tracing::warn!(event = "snapshot_not_written", partition, %error, "no more snapshots of a partition in this run; a restart will read more from Kafka");
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
    appended: Ms,
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
        Ok(Growing { opened, file, encoder: Encoder::default(), rows: 0, since: Instant::now(), last: Last::default(), appended: 0, next })
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
            self.appended = self.appended.max(row.appended);
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
        let head = Head { len, rows, sum: crc32fast::hash(&body), after: self.next, appended: self.appended, last: self.last };
        let mut bytes = head.bytes().to_vec();
        bytes.extend_from_slice(&body);
        self.file.write_all(&bytes)?;
        self.next = head.next();
        if let Some(segment) = self.opened.segments.last_mut() {
            segment.len += HEAD as u64 + u64::from(len);
            segment.rows += u64::from(rows);
            (segment.next, segment.appended) = (self.next, segment.appended.max(self.appended));
        }
        Ok(())
    }

    /// Begins a new file when this one is full, and deletes those that nobody needs any more.
    fn roll(&mut self, keep: Ms) -> io::Result<()> {
        if self.opened.segments.last().is_some_and(|segment| segment.len < SEGMENT) {
            return Ok(());
        }
        self.file = begin(&mut self.opened, self.next)?;
        let needed = self.appended.saturating_sub(keep);
        while let [oldest, _, ..] = self.opened.segments.as_slice()
            && oldest.appended < needed
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
    opened.segments.push(Segment { path, after, next: after, appended: 0, rows: 0, len, last: None });
    Ok(file)
}
