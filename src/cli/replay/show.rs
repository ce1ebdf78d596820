//! What a replay shows: a progress bar on a terminal, and a summary.

use crate::model::outputs::Topic;
use crate::replay::Summary;
use crate::sources::{Kind, Meter};
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A progress bar that follows the bytes read; indicatif hides it where standard error is no terminal.
pub struct Bar {
    ends: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Bar {
    /// Starts showing.
    pub fn start(files: &[(Kind, String)], meter: &Arc<Meter>) -> Self {
        let sizes = files.iter().map(|(_, path)| std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file).map(|meta| meta.len()));
        // Standard input, pipes and topics have no size: then there is a spinner.
        let total: Option<u64> = sizes.sum::<Option<u64>>().filter(|_| !files.is_empty());
        let bar = match total {
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::new_spinner(),
        };
        let template = match total {
            Some(_) => "{bar:30} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta} {msg}",
            None => "{spinner} {bytes} {binary_bytes_per_sec} {msg}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        let meter = Arc::clone(meter);
        let (ends, ended) = channel();
        let show = move || {
            while ended.recv_timeout(Duration::from_millis(100)) == Err(RecvTimeoutError::Timeout) {
                bar.set_position(meter.bytes());
                bar.set_message(format!("{} records", HumanCount(meter.total())));
            }
            bar.finish_and_clear();
        };
        // Without a thread there is no bar; the replay runs all the same.
        let thread = thread::Builder::new().name("progress".to_owned()).spawn(show).ok();
        Bar { ends: Some(ends), thread }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        drop(self.ends.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What was read, what was written, how long it took.
pub fn summary(summary: &Summary, out: &Path) -> String {
    let mut text = String::new();
    let mut line = |head: &str, what: &str, count: String| text.push_str(&format!("{head:<9}{what:<28}{count:>14}\n"));
    let mut total = 0;
    for (place, (kind, count)) in summary.read.iter().enumerate() {
        line(if place == 0 { "read" } else { "" }, kind.name(), HumanCount(*count).to_string());
        total += count;
    }
    for (place, (topic, count)) in summary.written.iter().enumerate() {
        line(if place == 0 { "written" } else { "" }, topic.default_name(), HumanCount(*count).to_string());
    }
    let seconds = summary.took.as_secs_f64();
    line("took", "seconds", format!("{seconds:.2}"));
    // A replay of a few records takes no time that could be measured.
    let rate = if seconds > 0.0 { total as f64 / seconds } else { 0.0 };
    line("", "records a second", HumanCount(rate as u64).to_string());
    if let Some(peak) = peak_memory() {
        line("", "peak memory", HumanBytes(peak).to_string());
    }
    let dead = summary.written.iter().find(|(topic, _)| *topic == Topic::DeadLetters).map_or(0, |(_, count)| *count);
    if dead > 0 {
        let path = out.join(format!("{}.jsonl", Topic::DeadLetters.default_name()));
        text.push_str(&format!("{} record(s) could not be read; {} says which and why\n", HumanCount(dead), path.display()));
    }
    text
}

/// The most memory the process has held, in bytes; known on Linux.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1_024)
}
