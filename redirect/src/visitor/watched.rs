//! A file that is read again when it changes, and whose value all workers share.
//!
//! # Edges
//! A changed file is read once it has looked the same for two looks in a row. One that cannot be read or is wrong leaves the value as it was, and the log says
//! so; a file that vanished likewise. The reader never waits: the value is swapped by one atomic pointer.

use crate::Error;
use arc_swap::ArcSwap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// What tells one state of a file from another.
type State = Option<(SystemTime, u64)>;

fn state(path: &Path) -> State {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}

/// How a file is read.
type Read<T> = fn(&Path) -> Result<T, Error>;

struct File<T> {
    path: PathBuf,
    read: Read<T>,
    /// State of the file whose value is in use, and at the last look.
    loaded: State,
    seen: State,
}

/// A value, and the file that it is from, if any.
pub(crate) struct Watched<T> {
    value: Arc<ArcSwap<T>>,
    file: Option<Mutex<File<T>>>,
}

impl<T> Watched<T> {
    /// A value that never changes.
    pub(crate) fn fixed(value: T) -> Watched<T> {
        Watched { value: Arc::new(ArcSwap::from_pointee(value)), file: None }
    }

    /// Reads a file for the first time.
    pub(crate) fn open(path: PathBuf, read: Read<T>) -> Result<Watched<T>, Error> {
        // Looked at before it is read: what changes in between is seen at the next look.
        let state = state(&path);
        let value = read(&path)?;
        let file = File { path, read, loaded: state, seen: state };
        Ok(Watched { value: Arc::new(ArcSwap::from_pointee(value)), file: Some(Mutex::new(file)) })
    }

    /// The value, for a worker that looks often.
    pub(crate) fn reader(&self) -> arc_swap::cache::Cache<Arc<ArcSwap<T>>, Arc<T>> {
        arc_swap::cache::Cache::new(self.value.clone())
    }

    /// Reads the file again if it has changed, or `now` in any case. Blocks on the disk: not for workers.
    pub(crate) fn look(&self, now: bool) {
        let Some(file) = &self.file else { return };
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        let state = state(&file.path);
        let steady = std::mem::replace(&mut file.seen, state) == state;
        if !now && (!steady || state == file.loaded) {
            return;
        }
        file.loaded = state;
        match (file.read)(&file.path) {
            Ok(value) => {
                self.value.store(Arc::new(value));
                tracing::info!(event = "list_read", "read {} again", file.path.display());
            }
            Err(error) => tracing::error!(event = "list_unreadable", "{error}; what was read before stays in use"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(path: &Path) -> Result<u32, Error> {
        let text = std::fs::read_to_string(path).map_err(|error| Error::Config(error.to_string()))?;
        text.trim().parse().map_err(|_| Error::Config("no number".to_owned()))
    }

    #[test]
    fn changes_are_taken_and_mistakes_are_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("number");
        assert!(Watched::open(path.clone(), number).is_err());
        std::fs::write(&path, "1").expect("written");
        let watched = Watched::open(path.clone(), number).expect("a number");
        let mut reader = watched.reader();
        assert_eq!(**reader.load(), 1);
        // Another length, so that it is seen within the clock's step.
        std::fs::write(&path, "22").expect("written");
        watched.look(false);
        assert_eq!(**reader.load(), 1, "it may still be being written");
        watched.look(false);
        assert_eq!(**reader.load(), 22);
        std::fs::write(&path, "three").expect("written");
        watched.look(true);
        std::fs::remove_file(&path).expect("removed");
        watched.look(true);
        assert_eq!(**reader.load(), 22);
        std::fs::write(&path, "4").expect("written");
        watched.look(true);
        assert_eq!(**reader.load(), 4);
        let fixed = Watched::fixed(7);
        fixed.look(true);
        assert_eq!(**fixed.reader().load(), 7);
    }
}
