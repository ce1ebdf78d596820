//! The outbox as files: one JSON-lines file per topic, created also when nothing is said.
//!
//! Byte for byte the same for the same log, whatever the number of workers or the batching.

use super::{Batch, Door};
use crate::model::outputs::{Output, Topic};
use crate::model::time::Ms;
use crate::stop::Stop;
use anyhow::Context as _;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Records written, by topic; shared with whoever shows it.
#[derive(Debug, Default)]
pub struct Written([AtomicU64; Topic::ALL.len()]);

impl Written {
    /// Records written to `topic`.
    pub fn records(&self, topic: Topic) -> u64 {
        self.0[topic as usize].load(Ordering::Relaxed)
    }
}

/// One file per topic in a folder.
pub struct Files {
    files: Vec<(PathBuf, BufWriter<File>)>,
    written: Arc<Written>,
    committed: Ms,
    stop: Stop,
}

impl Files {
    /// Creates the folder and its files; what stood in them is gone.
    ///
    /// # Errors
    /// The folder or a file can't be created.
    pub fn create(folder: &Path, written: Arc<Written>, stop: Stop) -> anyhow::Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot create the folder {}", folder.display()))?;
        let create = |topic: Topic| {
            let path = folder.join(format!("{}.jsonl", topic.default_name()));
            let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
            Ok((path, BufWriter::with_capacity(1 << 17, file)))
        };
        let files = Topic::ALL.into_iter().map(create).collect::<anyhow::Result<_>>()?;
        Ok(Files { files, written, committed: 0, stop })
    }

    fn write(&mut self, upper: Ms, outputs: &[Output]) -> anyhow::Result<()> {
        for output in outputs {
            let (path, file) = &mut self.files[output.topic as usize];
            let line = file.write_all(&output.value).and_then(|()| file.write_all(b"\n"));
            line.with_context(|| format!("cannot write {}", path.display()))?;
            self.written.0[output.topic as usize].fetch_add(1, Ordering::Relaxed);
        }
        if upper == Ms::MAX {
            for (path, file) in &mut self.files {
                file.flush().with_context(|| format!("cannot write {}", path.display()))?;
            }
        }
        Ok(())
    }
}

impl Door for Files {
    fn offer(&mut self, mut batch: Batch) -> Result<(), Batch> {
        if self.stop.asked() {
            return Err(batch);
        }
        let outputs = batch.take_sorted();
        match self.write(batch.upper, &outputs) {
            Ok(()) => {
                self.committed = batch.upper;
                Ok(())
            }
            Err(error) => {
                self.stop.fail(error);
                batch.ticks.push(outputs);
                Err(batch)
            }
        }
    }

    fn committed(&self) -> Ms {
        self.committed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_has_its_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let written = Arc::new(Written::default());
        let mut files = Files::create(&folder.path().join("out"), Arc::clone(&written), Stop::new()).expect("creates");
        let output =
            |key: &str| Output { topic: Topic::DealStages, key: key.to_owned(), value: format!("{{\"k\":\"{key}\"}}").into_bytes() };
        files.offer(Batch { upper: 10, ticks: vec![vec![output("b"), output("a")]], read: Vec::new() }).expect("room");
        files.offer(Batch { upper: Ms::MAX, ticks: Vec::new(), read: Vec::new() }).expect("room");
        assert_eq!((files.committed(), written.records(Topic::DealStages), written.records(Topic::Timeline)), (Ms::MAX, 2, 0));
        let read = |name: &str| fs::read_to_string(folder.path().join("out").join(name)).expect("exists");
        assert_eq!(read("hubspot.deal-stages.jsonl"), "{\"k\":\"a\"}\n{\"k\":\"b\"}\n");
        for name in ["hubspot.timeline", "hubspot.contact-properties", "clicks.unresolved", "clicks.counts", "dead-letters"] {
            assert_eq!(read(&format!("{name}.jsonl")), "");
        }
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let error = Files::create(&file.path().join("out"), Arc::default(), Stop::new()).err().expect("not a folder");
        assert!(format!("{error:#}").contains("out"));
    }
}
