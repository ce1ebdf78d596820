//! Whose spool it is: its id, its run, and whether it may be used at all.
//!
//! # The run
//! It is on the disk before the first record that has its number, which is what keeps numbers from being used twice. A start writes it at once; where
//! the disk is full that waits until there is a record to write, so that what is on a full disk can be sent, and makes room.
//!
//! # A spool that is refused
//! Whoever finds that another process has sent this spool gives the file `spool` the name `refused`, which needs no room. Later starts end at that. Who
//! gives it the name `adopt` lets the next start take a new id: it sends all that is there and was not sent from there.

use super::recover::read_small;
use super::{COUNT_BITS, Disk, Unusable};
use std::io;
use uuid::Uuid;

const META: &str = "spool";
const REFUSED: &str = "refused";
const ADOPT: &str = "adopt";
/// First line of these files.
const FORMAT: &str = "clickline-redirect spool 1";
/// Runs that fit beside the count in a signed number, as Kafka stores it.
const MAX_RUN: u64 = (1 << (63 - COUNT_BITS)) - 1;

/// A spool's id and the run of this process.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// The spool's own, the same from start to start.
    pub id: Uuid,
    run: u64,
    /// The run is on the disk: its numbers may be used.
    stored: bool,
}

impl Identity {
    /// Takes the next run. `last` is the last segment's first number, `position` the first that is not known to be committed: whatever the files say, the
    /// numbers of both were used.
    pub(super) fn begin(disk: &dyn Disk, last: Option<u64>, position: u64) -> Result<Identity, Unusable> {
        if there(disk, REFUSED)?.is_some() {
            return Err(Unusable::Wrong(REFUSAL.to_owned()));
        }
        let adopted = there(disk, ADOPT)?;
        let used = last.unwrap_or(0).max(position) >> COUNT_BITS;
        let (id, run) = match (&adopted, there(disk, META)?) {
            // Both, where a power cut brought the one back.
            (Some(bytes), meta) => {
                let runs = [Some(bytes), meta.as_ref()].into_iter().flatten().filter_map(|bytes| parse(bytes)).map(|(_, run)| run);
                (Uuid::now_v7(), runs.max().unwrap_or(0))
            }
            (None, Some(bytes)) => parse(&bytes).ok_or_else(|| {
                Unusable::Wrong(
                    "the file `spool` in the spool's directory is damaged or of another version; move the directory away, keep it, and start with an empty one"
                        .to_owned(),
                )
            })?,
            (None, None) if last.is_none() => (Uuid::now_v7(), 0),
            (None, None) => {
                return Err(Unusable::Wrong(
                    "the file `spool` is missing in the spool's directory, and there are segments; put it back, or move the directory away, keep it, and start with an empty one"
                        .to_owned(),
                ));
            }
        };
        let mut identity = Identity { id, run: run.max(used).saturating_add(1), stored: false };
        if identity.run > MAX_RUN {
            return Err(Unusable::Wrong(
                "this spool was started too often; stop when it is empty, and give the next start an empty directory".to_owned(),
            ));
        }
        match identity.store(disk) {
            Ok(()) => {}
            // A new id that is not kept would send all of it once more after the next start.
            Err(error) if no_room(&error) && adopted.is_none() => {
                tracing::warn!(event = "spool_full", %error, "the spool's disk is full; what is in the spool is sent first");
            }
            Err(error) => return Err(Unusable::cannot("write to", &error)),
        }
        if adopted.is_some() {
            let removed = disk.remove(ADOPT).and_then(|()| disk.sync_names());
            removed.map_err(|error| Unusable::cannot("remove the file `adopt` of", &error))?;
            tracing::warn!(event = "spool_adopted", "the spool has a new id; what another process has sent of it comes once more");
        }
        Ok(identity)
    }

    /// First sequence number of the run.
    pub(crate) fn first(&self) -> u64 {
        self.run << COUNT_BITS
    }

    /// Whether the run's numbers may be used.
    pub(super) fn stored(&self) -> bool {
        self.stored
    }

    /// Stores the run.
    pub(super) fn store(&mut self, disk: &dyn Disk) -> io::Result<()> {
        if self.run > MAX_RUN {
            return Err(io::Error::other("the spool's numbers are used up"));
        }
        disk.replace(META, text(self.id, self.run).as_bytes())?;
        self.stored = true;
        Ok(())
    }

    /// Goes on to the next run, which is to be stored.
    pub(super) fn next_run(&mut self) {
        (self.run, self.stored) = (self.run + 1, false);
    }
}

/// Makes that no later start uses this spool.
pub(crate) fn refuse(disk: &dyn Disk) -> io::Result<()> {
    disk.rename(META, REFUSED)
}

/// What a start says of a spool that was refused.
const REFUSAL: &str = "another process has sent this spool, or a copy of it, or it is an old state that was put back; nothing was removed from it since \
    that was found. Give the server an empty directory, and keep this one. To send what is in it, give the file `refused` in it the name `adopt` and start \
    a server on it: clicks that the other process has sent come once more, with the same ids";

/// A small file's content, if it is there.
fn there(disk: &dyn Disk, name: &str) -> Result<Option<Vec<u8>>, Unusable> {
    match read_small(disk, name) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Unusable::cannot(&format!("read the file `{name}` of"), &error)),
    }
}

/// Whether it is for want of room that something was not written.
fn no_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

fn text(id: Uuid, run: u64) -> String {
    let text = format!("{FORMAT}\n{}\n{run}\n", id.hyphenated());
    let crc = crc32fast::hash(text.as_bytes());
    format!("{text}{crc:08x}\n")
}

fn parse(bytes: &[u8]) -> Option<(Uuid, u64)> {
    let told = std::str::from_utf8(bytes).ok()?;
    let mut lines = told.lines().skip(1);
    let id = Uuid::parse_str(lines.next()?).ok()?;
    let run = lines.next()?.parse().ok()?;
    (text(id, run) == told).then_some((id, run))
}
