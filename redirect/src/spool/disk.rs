//! The few things that a spool asks of a file system, so that tests can give it a bad one.

use super::Unusable;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A folder of files.
pub(crate) trait Disk: Send + Sync {
    /// Names of the files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// A new file. Its name survives a power cut once [`sync_names`](Disk::sync_names) has returned.
    fn create(&self, name: &str) -> io::Result<Box<dyn Appender>>;
    /// Length of a file in bytes.
    fn len(&self, name: &str) -> io::Result<u64>;
    /// Reads from `offset` until the buffer is full or the file ends; tells how many bytes.
    fn read(&self, name: &str, offset: u64, into: &mut [u8]) -> io::Result<usize>;
    /// Writes a small file at once: afterwards, also after a power cut, there is the old content or the new.
    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()>;
    /// Returns when the names of all files survive a power cut.
    fn sync_names(&self) -> io::Result<()>;
    /// Gives a file another name, also for after a power cut. Needs no room.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Overwrites a small file in place, with no promise for a power cut.
    fn note(&self, name: &str, bytes: &[u8]) -> io::Result<()>;
    /// Cuts a file.
    fn truncate(&self, name: &str, length: u64) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
}

/// A file that grows.
pub(crate) trait Appender: Send {
    /// Hands the bytes to the system. After an error some of them may be there.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Cuts the file.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
    /// Returns when what was appended survives a power cut. After an error nothing is known about what was appended since the last time: a second
    /// call may well say that all is fine.
    fn sync(&mut self) -> io::Result<()>;
}

/// A real folder, locked for this process.
pub(crate) struct Folder {
    path: PathBuf,
    /// The lock goes with the handle, however the process ends.
    _lock: File,
}

/// The file that is locked.
const LOCK: &str = "lock";

impl Folder {
    /// Opens an existing folder and locks it.
    ///
    /// # Errors
    /// It is missing, not a folder, not ours to write, or in use; or the disk fails.
    pub(crate) fn open(path: &Path) -> Result<Folder, Unusable> {
        let (shown, wrong) = (path.display(), |message| Err(Unusable::Wrong(message)));
        match std::fs::metadata(path) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => return wrong(format!("the spool {shown} is not a directory; name one with `--spool`")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return wrong(format!("there is no directory {shown} for the spool; make it and give it to the user this runs as"));
            }
            Err(error) => {
                return Err(Unusable::by(&error, format!("cannot look at the spool {shown} ({error}); check its owner and permissions")));
            }
        }
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path.join(LOCK)).map_err(|error| {
            let message = format!(
                "cannot write in the spool {shown} ({error}); it must belong to the user this runs as, on a file system that is not read-only"
            );
            Unusable::by(&error, message)
        })?;
        match lock.try_lock() {
            Ok(()) => Ok(Folder { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => {
                wrong(format!("another process uses the spool {shown}; stop it, or give this one a directory of its own"))
            }
            Err(TryLockError::Error(error)) => wrong(format!("cannot lock the spool {shown} ({error}); put it on a local file system")),
        }
    }
}

impl Disk for Folder {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            // A name that is no UTF-8 is none of ours.
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn Appender>> {
        Ok(Box::new(OpenOptions::new().create_new(true).append(true).open(self.path.join(name))?))
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        Ok(std::fs::metadata(self.path.join(name))?.len())
    }

    fn read(&self, name: &str, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let file = File::open(self.path.join(name))?;
        let mut filled = 0;
        while filled < into.len() {
            match file.read_at(&mut into[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let beside = self.path.join(format!("{name}.new"));
        let written = File::create(&beside).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        if let Err(error) = written {
            // What is there of it takes room for nothing.
            let _ = std::fs::remove_file(beside);
            return Err(error);
        }
        std::fs::rename(beside, self.path.join(name))?;
        self.sync_names()
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))?;
        self.sync_names()
    }

    fn note(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        OpenOptions::new().create(true).truncate(false).write(true).open(self.path.join(name))?.write_all_at(bytes, 0)
    }

    fn truncate(&self, name: &str, length: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(self.path.join(name))?;
        file.set_len(length)?;
        file.sync_all()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }
}

impl Appender for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn sync(&mut self) -> io::Result<()> {
        crate::failpoint::call("disk.sync", || self.sync_data())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_cannot_be_used_says_what_to_do() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let refusal = |path: &Path| match Folder::open(path).err() {
            Some(Unusable::Wrong(message)) => message,
            other => panic!("{other:?}"),
        };
        assert!(refusal(&folder.path().join("none")).contains("make it"));
        std::fs::write(folder.path().join("file"), "").expect("a file");
        assert!(refusal(&folder.path().join("file")).contains("not a directory"));
        let held = Folder::open(folder.path()).expect("ours");
        assert!(refusal(folder.path()).contains("another process"));
        drop(held);
        Folder::open(folder.path()).expect("ours again");
        // Root may write everywhere but there.
        assert!(refusal(Path::new("/proc/self")).contains("cannot write"));
    }
}
