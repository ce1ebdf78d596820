//! A program of ours in a process of its own, which chance may kill, freeze or stop, and which is started again.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::support::process::wait_for;

/// A running program with its log.
pub struct Process {
    pub name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; its words go to `NAME.log` in `folder`, after those of the starts before.
    pub fn start(name: &'static str, mut command: Command, folder: &Path) -> Process {
        let log = folder.join(format!("{name}.log"));
        let file = || File::options().create(true).append(true).open(&log).expect("a log");
        let child = command.stdin(Stdio::null()).stdout(file()).stderr(file()).spawn().expect("starts");
        Process { name, child, log }
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("our own child")
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().expect("our own child");
        self.child.wait().expect("our own child");
    }

    /// SIGSTOP, and SIGCONT after a while.
    pub fn freeze(&self, pause: Duration) {
        self.signal("STOP");
        std::thread::sleep(pause);
        self.signal("CONT");
    }

    /// SIGTERM; how it ended.
    pub fn stop(mut self) -> ExitStatus {
        self.signal("TERM");
        wait_for(&format!("{} to end", self.name), || self.ended())
    }

    /// All that it has said in all its starts.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `TERM`, `HUP`, …
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(sent.is_ok_and(|sent| sent.success()), "kill -{name} reaches our own child");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Ended already, unless it was killed or the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
