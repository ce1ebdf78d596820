//! The thread that does what workers must not: watches the links file and those about visitors, and tells of lost clicks.
//!
//! # Edges
//! A changed file is read once it has looked the same for two looks in a row, and thrown away if it changed while it was read, so that one that
//! is still being written is not taken for finished. (Write beside it and rename to be certain.) A file that cannot be read, is empty, is no list
//! or has a bad link leaves the links as they were. A server that stops ends the reading of links where it is.
//!
//! # Cost
//! A million links take seconds of a processor to read. The thread has the lowest priority, so that a worker on the same processor has it whenever a
//! visitor comes (`cargo bench -p clickline-redirect -- --reload`).

use crate::Error;
use crate::answer::Shared;
use crate::links::LinkFile;
use crate::priority::{LOWEST, give_way};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

/// How often the file is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How often losses are told.
const TELL: Duration = Duration::from_secs(10);

/// The running thread; dropping it ends it.
pub(crate) struct Supervisor {
    reload: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Supervisor {
    pub(crate) fn start(path: Option<PathBuf>, shared: Arc<Shared>) -> Result<Supervisor, Error> {
        let (reload, wanted) = mpsc::channel();
        let mut watch = path.map(Watch::new);
        let thread = thread::Builder::new()
            .name("redirect-supervisor".to_owned())
            .spawn(move || {
                give_way(LOWEST);
                let mut losses = Losses::default();
                loop {
                    let now = match wanted.recv_timeout(LOOK) {
                        Ok(()) => true,
                        Err(RecvTimeoutError::Timeout) => false,
                        Err(RecvTimeoutError::Disconnected) => return,
                    };
                    if let Some(watch) = &mut watch {
                        watch.look(now, &shared);
                    }
                    if shared.stopping.load(Ordering::Acquire) {
                        return;
                    }
                    shared.visitors.look(now);
                    losses.tell(&shared);
                }
            })
            .map_err(|source| Error::Start { part: "the supervisor thread", source })?;
        Ok(Supervisor { reload: Some(reload), thread: Some(thread) })
    }

    pub(crate) fn reload(&self) {
        // The thread lives as long as this value; if it has panicked there is nobody to reload.
        let _ = self.reload.as_ref().map(|reload| reload.send(()));
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.reload.take();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!(event = "thread_panicked", "the supervisor had panicked");
        }
    }
}

/// What tells one state of a file from another.
type State = Option<(SystemTime, u64)>;

fn state(path: &Path) -> State {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}

struct Watch {
    path: PathBuf,
    /// State of the file whose links are served.
    loaded: State,
    /// State at the last look.
    seen: State,
}

impl Watch {
    fn new(path: PathBuf) -> Watch {
        let state = state(&path);
        Watch { path, loaded: state, seen: state }
    }

    fn look(&mut self, now: bool, shared: &Shared) {
        let state = state(&self.path);
        let steady = std::mem::replace(&mut self.seen, state) == state;
        if !now && (!steady || state == self.loaded) {
            return;
        }
        let read = self.read(shared);
        if shared.stopping.load(Ordering::Acquire) {
            // Half of it was read at most, and nobody will ask for it.
            return;
        }
        if self::state(&self.path) != state {
            // The next look will find it steady, or changing still.
            tracing::info!(event = "links_changing", "{} changed while it was read; reading it again", self.path.display());
            self.seen = None;
            self.loaded = None;
            return;
        }
        self.loaded = state;
        match read {
            Ok(file) => {
                tracing::info!(event = "links_read", links = file.len(), "read the links in {}", self.path.display());
                shared.live.set_file(file.layer);
                shared.tell_disputes();
                shared.metrics.reloaded(true);
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(|cause| format!(" ({cause})")).unwrap_or_default();
                tracing::error!(event = "links_unreadable", "{error}{cause}; the links stay as they were");
                shared.metrics.reloaded(false);
            }
        }
    }

    fn read(&self, shared: &Shared) -> Result<LinkFile, Error> {
        if self.seen.is_some_and(|(_, length)| length == 0) {
            let message = "the file is empty, so it is taken for one that is being written; write an empty line for no links".to_owned();
            return Err(Error::ParseLinks { path: self.path.clone(), line: 0, message });
        }
        // Room for as many links as there are now: none in reserve while both tables are in memory.
        let empty = shared.live.table().file().emptied();
        LinkFile::read_into(empty, &self.path, &shared.shared_domains, &shared.stopping)?.without_problems(&self.path)
    }
}

/// Tells how many clicks were lost since it was last told.
struct Losses {
    told_at: Instant,
    overflowed: u64,
    failed: u64,
}

impl Default for Losses {
    fn default() -> Self {
        Losses { told_at: Instant::now(), overflowed: 0, failed: 0 }
    }
}

impl Losses {
    fn tell(&mut self, shared: &Shared) {
        if self.told_at.elapsed() < TELL {
            return;
        }
        self.told_at = Instant::now();
        let counts = shared.sink.counts();
        let (overflowed, failed) = (counts.overflowed - self.overflowed, counts.failed - self.failed);
        if overflowed + failed > 0 {
            let reason = shared.sink.trouble().unwrap_or_default();
            tracing::error!(
                event = "clicks_lost",
                overflowed,
                failed,
                reason,
                "clicks were lost in the last {} s; visitors are still redirected",
                TELL.as_secs()
            );
        }
        (self.overflowed, self.failed) = (counts.overflowed, counts.failed);
    }
}
