//! Which processes a job has, and which of them this one is.
//!
//! # Meaning
//! As on the command line of any timely program: a hostfile has one `host:port` a line, and a line's number, from 0, is a
//! process's index. Without a hostfile the processes are on this machine, at the ports 2101 and up.
//!
//! # Ties and edges
//! A hostfile may have more lines than there are processes; the first ones count. Empty lines at its end are none.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The port of process 0 where no addresses are given; timely's own choice.
const FIRST_PORT: usize = 2101;
/// Most processes: with timely's ports the last one is below those of outgoing connections.
const MOST: usize = 1_024;

/// The processes of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosts {
    /// Where each process listens, `host:port`, by index; at least two.
    pub addresses: Vec<String>,
    /// Which of them this one is.
    pub process: usize,
}

/// What the command line says about them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked<'a> {
    /// `--processes`
    pub processes: Option<usize>,
    /// `--process`
    pub process: Option<usize>,
    /// `--hostfile`
    pub hostfile: Option<&'a Path>,
}

/// What is wrong with them, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    /// A hostfile that can't be read.
    #[error("cannot read the hostfile {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Numbers or addresses that make no sense.
    #[error("{0}")]
    Wrong(String),
}

impl Hosts {
    /// What the command line asks for; where it names no addresses, with those that are `configured`. `None` for a job
    /// of one process, which needs no address.
    ///
    /// # Errors
    /// A hostfile that can't be read or is too short, addresses that are none or stand there twice, an index that is
    /// missing or too high.
    pub fn of(asked: Asked<'_>, configured: &[String]) -> Result<Option<Self>, HostsError> {
        let wrong = |problem: String| Err(HostsError::Wrong(problem));
        let (mut addresses, place) = match asked.hostfile {
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|source| HostsError::Read { path: path.to_owned(), source })?;
                let lines: Vec<String> = text.trim_end().lines().map(|line| line.trim().to_owned()).collect();
                (lines, format!("the hostfile {}", path.display()))
            }
            None => (configured.to_vec(), "`cluster.hosts`".to_owned()),
        };
        check(&addresses).map_err(|problem| HostsError::Wrong(format!("{place}: {problem}")))?;
        let processes = match asked.processes {
            Some(processes) => processes,
            None if asked.hostfile.is_some() && addresses.is_empty() => {
                return wrong(format!("{place} is empty; it has one line `host:port` for each process"));
            }
            None => addresses.len().max(1),
        };
        if processes > MOST {
            return wrong(format!("--processes {processes}: at most {MOST}"));
        }
        let last = processes.saturating_sub(1);
        match asked.process {
            Some(process) if process > last => {
                return wrong(format!(
                    "--process {process}: there are {processes} processes, numbered from 0 to {last}; correct it, or --processes"
                ));
            }
            None if processes > 1 => {
                return wrong(format!("there are {processes} processes: say which of them this one is, --process 0 to {last}"));
            }
            _ => {}
        }
        if processes < 2 {
            return Ok(None);
        }
        if addresses.is_empty() && asked.hostfile.is_none() {
            addresses = (0..processes).map(|process| format!("localhost:{}", FIRST_PORT + process)).collect();
        }
        if addresses.len() < processes {
            let there = addresses.len();
            return wrong(format!(
                "{place} has {there} addresses for {processes} processes; give it one `host:port` for each, or start fewer"
            ));
        }
        addresses.truncate(processes);
        Ok(Some(Hosts { addresses, process: asked.process.unwrap_or(0) }))
    }

    /// Whether this is process 0, which has the outbox.
    pub fn leads(&self) -> bool {
        self.process == 0
    }
}

/// Whether addresses are addresses, and no two the same.
///
/// # Errors
/// The first mistake, with its number from 1, and what to do.
pub fn check(addresses: &[String]) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for (number, address) in (1..).zip(addresses) {
        if address.is_empty() {
            return Err(format!("line {number} is empty, and a line's number is a process's index; take the line out"));
        }
        if !is_address(address) {
            return Err(format!("line {number}, `{address}`, is no address; write `host:port`, for IPv6 `[address]:port`"));
        }
        if !seen.insert(address.to_lowercase()) {
            return Err(format!("line {number}, `{address}`, stands there twice; each process needs an address of its own"));
        }
    }
    Ok(())
}

fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let named = !host.is_empty() && !host.chars().any(|c| c.is_whitespace() || c == '/' || c == ',');
    named && (bracketed || !host.contains(':')) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(processes: Option<usize>, process: Option<usize>, hostfile: Option<&str>, configured: &[&str]) -> Result<Option<Hosts>, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("hosts");
        if let Some(text) = hostfile {
            std::fs::write(&path, text).expect("writes");
        }
        let configured: Vec<String> = configured.iter().map(|address| (*address).to_owned()).collect();
        let asked = Asked { processes, process, hostfile: hostfile.map(|_| path.as_path()) };
        Hosts::of(asked, &configured).map_err(|error| format!("{:#}", anyhow::Error::new(error)))
    }

    fn hosts(addresses: &[&str], process: usize) -> Option<Hosts> {
        Some(Hosts { addresses: addresses.iter().map(|address| (*address).to_owned()).collect(), process })
    }

    #[test]
    fn a_line_is_a_process() {
        let file = "a:1\nb:2\r\nc:3\n\n";
        assert_eq!(of(Some(3), Some(1), Some(file), &[]), Ok(hosts(&["a:1", "b:2", "c:3"], 1)));
        assert_eq!(of(None, Some(2), Some(file), &[]), Ok(hosts(&["a:1", "b:2", "c:3"], 2)), "as many as there are lines");
        assert_eq!(of(Some(2), Some(0), Some(file), &[]), Ok(hosts(&["a:1", "b:2"], 0)), "the first ones count");
        assert_eq!(of(None, Some(1), Some(file), &["x:1", "y:1"]), Ok(hosts(&["a:1", "b:2", "c:3"], 1)), "the command line wins");
        assert_eq!(of(None, Some(1), None, &["x:1", "[::1]:1"]), Ok(hosts(&["x:1", "[::1]:1"], 1)));
        assert_eq!(of(Some(2), Some(1), None, &[]), Ok(hosts(&["localhost:2101", "localhost:2102"], 1)), "as timely does it");
    }

    #[test]
    fn one_process_needs_no_address() {
        for (processes, process, file) in [(None, None, None), (Some(1), None, None), (Some(1), Some(0), Some("a:1\n"))] {
            assert_eq!(of(processes, process, file, &[]), Ok(None));
        }
    }

    #[test]
    fn a_mistake_is_named_with_what_to_do() {
        for (processes, process, file, said) in [
            (Some(2), Some(2), Some("a:1\nb:2"), "numbered from 0 to 1"),
            (Some(2), None, Some("a:1\nb:2"), "--process 0 to 1"),
            (None, Some(1), None, "there are 1 processes"),
            (Some(3), Some(0), Some("a:1\nb:2"), "has 2 addresses for 3 processes"),
            (Some(3), Some(0), Some(""), "has 0 addresses for 3 processes"),
            (None, Some(0), Some("\n"), "is empty"),
            (Some(2), Some(0), Some("a:1\n\nb:2"), "line 2 is empty"),
            (Some(2), Some(0), Some("a:1\nA:1"), "line 2, `A:1`, stands there twice"),
            (Some(2), Some(0), Some("a:1\nb"), "line 2, `b`, is no address"),
            (Some(2), Some(0), Some("a:1\nb:0"), "line 2, `b:0`, is no address"),
            (Some(2), Some(0), Some("a:1\nb:70000"), "is no address"),
            (Some(2), Some(0), Some("a:1 c:1\nb:2"), "is no address"),
            (Some(2), Some(0), Some("::1:5\nb:2"), "[address]:port"),
            (Some(1_000_000), Some(0), None, "at most"),
        ] {
            let error = of(processes, process, file, &[]).expect_err(said);
            assert!(error.contains(said), "{said}: {error}");
        }
        let asked = Asked { hostfile: Some(Path::new("no-such-file")), ..Asked::default() };
        let error = Hosts::of(asked, &[]).expect_err("missing");
        assert!(format!("{:#}", anyhow::Error::new(error)).contains("no-such-file"));
    }
}
