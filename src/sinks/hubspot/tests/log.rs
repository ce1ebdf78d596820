//! What the process logs. There is one log for all tests of the process, and each hears the others: look for words of one's own.

use std::io::Write;
use std::sync::{Arc, Mutex, OnceLock};
use tracing::Level;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("unpoisoned").write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn log() -> &'static Log {
    static LOG: OnceLock<Log> = OnceLock::new();
    LOG.get_or_init(|| {
        let log = Log::default();
        let writer = log.clone();
        let lines = tracing_subscriber::fmt().with_ansi(false).with_max_level(Level::TRACE).with_writer(move || writer.clone());
        tracing::subscriber::set_global_default(lines.finish()).expect("no other subscriber");
        log
    })
}

/// Begins to listen, if nobody has so far.
pub fn listen() {
    log();
}

/// Our own lines since somebody began to listen.
pub fn lines() -> Vec<String> {
    let text = String::from_utf8_lossy(&log().0.lock().expect("unpoisoned")).into_owned();
    text.lines().filter(|line| line.contains("clickline::")).map(str::to_owned).collect()
}
