//! Wall clocks of programs that jump while they run; those of the brokers and of the test do not.

use clickline::model::time::{DAY, HOUR};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Clocks that are set ahead and back by hours and days, until this is dropped.
pub struct WrongClocks {
    files: Vec<PathBuf>,
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl WrongClocks {
    /// So many clocks, in files of `folder`; `seed` chooses when each jumps, and where to.
    pub fn start(folder: &Path, count: usize, seed: u64) -> Self {
        let files: Vec<PathBuf> = (0..count).map(|clock| folder.join(format!("clock{clock}"))).collect();
        let (of_thread, fresh, done) = (files.clone(), folder.join("clock.fresh"), Arc::new(AtomicBool::new(false)));
        let (ask, mut rng) = (Arc::clone(&done), StdRng::seed_from_u64(seed));
        let thread = thread::spawn(move || {
            while !ask.load(Ordering::Relaxed) {
                let most = *[1_000, HOUR, 3 * HOUR, 40 * DAY].choose(&mut rng).expect("some");
                let ms = if rng.random_bool(0.2) { 0 } else { rng.random_range(0..2 * most).cast_signed() - most.cast_signed() };
                // Whole or not at all: the programs read it all the time.
                let file = of_thread.choose(&mut rng).expect("some");
                fs::write(&fresh, ms.to_string()).and_then(|()| fs::rename(&fresh, file)).expect("writes");
                thread::sleep(Duration::from_millis(rng.random_range(1..400)));
            }
        });
        WrongClocks { files, done, thread: Some(thread) }
    }

    /// Lets a program go by one of them.
    pub fn give(&self, command: &mut Command, clock: usize) {
        command.env("CLICKLINE_CLOCK_SHIFT", &self.files[clock]);
    }
}

impl Drop for WrongClocks {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !thread::panicking()
        {
            panic!("the clocks stood still");
        }
    }
}
