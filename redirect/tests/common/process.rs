//! The server as a process with a spool: to be killed, to be stopped, and to be asked what it counts.

use super::{LINKS, talk};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// A redirect server as a process; killed when dropped.
pub struct Redirect {
    pub child: Child,
    pub address: SocketAddr,
    metrics: SocketAddr,
    /// Open as long as the process may write to it.
    output: BufReader<ChildStdout>,
}

impl Redirect {
    /// With [`LINKS`] and a spool in `folder/spool`. `failpoint` is a place of `clickline_redirect::failpoint`.
    pub fn start(folder: &Path, broker: &str, topic: &str, more: &[&str], failpoint: Option<&str>) -> Redirect {
        Redirect::start_by(Command::new(env!("CARGO_BIN_EXE_clickline-redirect")), folder, broker, topic, more, failpoint)
    }

    /// The same, started by a command that ends with the program's name, such as `sh -c 'ulimit -f 9; exec "$@"' sh clickline-redirect`.
    pub fn start_by(mut command: Command, folder: &Path, broker: &str, topic: &str, more: &[&str], failpoint: Option<&str>) -> Redirect {
        let links = folder.join("links.yaml");
        std::fs::write(&links, LINKS).expect("the links file");
        std::fs::create_dir_all(folder.join("spool")).expect("a folder");
        command.args(["--listen", "127.0.0.1:0", "--workers", "2", "--default-domain", "s.elido.me", "--log", "warn", "--metrics", "0"]);
        command.args(["--kafka", broker, "--clicks-topic", topic]).arg("--links").arg(links).arg("--spool").arg(folder.join("spool"));
        command.args(more).stdout(Stdio::piped()).stderr(Stdio::null());
        if let Some(failpoint) = failpoint {
            command.env("CLICKLINE_FAILPOINT", failpoint);
        }
        let mut child = command.spawn().expect("the program starts");
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let mut address = |before: &str, after: &str| {
            let mut line = String::new();
            output.read_line(&mut line).expect("a line");
            let rest = line.trim().strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
            rest.unwrap_or_else(|| panic!("{line:?} instead of {before}…{after}")).parse().expect("an address")
        };
        let (address, metrics) = (address("listening on http://", ""), address("metrics on http://", "/metrics"));
        Redirect { child, address, metrics, output }
    }

    pub fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("ends");
    }

    /// SIGTERM, and the exit code.
    pub fn stop(self) -> Option<i32> {
        self.stop_and_tell().0
    }

    /// SIGTERM; the exit code, and what it said since its start.
    pub fn stop_and_tell(mut self) -> (Option<i32>, String) {
        assert!(Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().expect("kill runs").success());
        self.ended()
    }

    /// Waits until it ends by itself; the exit code, and what it said since its start.
    pub fn ended(&mut self) -> (Option<i32>, String) {
        let end = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("ours") {
                break status;
            }
            assert!(Instant::now() < end, "the server does not end");
            std::thread::sleep(Duration::from_millis(5));
        };
        let mut said = String::new();
        self.output.read_to_string(&mut said).expect("text");
        (status.code(), said)
    }

    /// A series as `/metrics` has it, with its labels as they stand there.
    pub fn metric(&self, series: &str) -> f64 {
        let text = talk(self.metrics, b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {series} in {text}")).parse().expect("a number")
    }
}

impl Drop for Redirect {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
