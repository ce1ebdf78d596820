//! Servers under measurement: started on a processor of their own, their processor time and memory as the system counts them.

use crate::links::{self, Nginx};
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A running server; killed when dropped.
pub struct Server {
    pub name: &'static str,
    pub address: SocketAddr,
    /// Where its metrics are, if it has any.
    metrics: Option<SocketAddr>,
    /// What it writes.
    log: PathBuf,
    child: Child,
}

/// What a process has used so far.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    /// Processor time of all its threads.
    pub cpu: Duration,
    /// Resident memory, bytes.
    pub resident: u64,
}

impl Server {
    /// Starts `program` on processor `cpu` and waits until it accepts connections.
    fn start(name: &'static str, cpu: usize, program: &str, arguments: &[String], port: u16, log: &Path) -> io::Result<Server> {
        let out = fs::File::create(log)?;
        let child = Command::new("taskset")
            .args(["-c", &cpu.to_string(), program])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .map_err(|error| io::Error::other(format!("cannot start {name} ({program}) through taskset: {error}")))?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut server = Server { name, address, metrics: None, log: log.to_owned(), child };
        // A million links take nginx and us some seconds to read.
        let end = Instant::now() + Duration::from_secs(180);
        while TcpStream::connect(address).is_err() {
            if let Some(status) = server.child.try_wait()? {
                return Err(io::Error::other(format!("{name} ended with {status}:\n{}", fs::read_to_string(log).unwrap_or_default())));
            }
            if Instant::now() > end {
                return Err(io::Error::other(format!("{name} accepts no connection; its log is {}", log.display())));
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    /// nginx of the system.
    pub fn nginx(folder: &Path, kind: Nginx, cpu: usize, links: usize) -> io::Result<Server> {
        fs::create_dir_all(folder)?;
        let port = free_port()?;
        let conf = links::write_nginx(folder, kind, port, links)?;
        let name = match kind {
            Nginx::Constant => "nginx, constant, no log",
            Nginx::MapAndLog => "nginx, map and log",
        };
        let program = if Path::new("/usr/sbin/nginx").exists() { "/usr/sbin/nginx" } else { "nginx" };
        let arguments = ["-p", &folder.display().to_string(), "-c", &conf.display().to_string()].map(str::to_owned);
        Server::start(name, cpu, program, &arguments, port, &folder.join("out.log"))
    }

    /// The redirect server as it is delivered, or another build of it, with one worker.
    pub fn clickline(
        folder: &Path,
        name: &'static str,
        cpu: usize,
        program: Option<&Path>,
        file: &Path,
        brokers: &str,
        more: &[String],
    ) -> io::Result<Server> {
        fs::create_dir_all(folder)?;
        let port = free_port()?;
        let metrics = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let mut arguments: Vec<String> = [
            "--listen",
            &format!("127.0.0.1:{port}"),
            "--workers",
            "1",
            "--links",
            &file.display().to_string(),
            "--kafka",
            brokers,
            "--metrics",
            &metrics.to_string(),
            "--log",
            "warn",
        ]
        .map(str::to_owned)
        .to_vec();
        arguments.extend_from_slice(more);
        let program = program.map_or(env!("CARGO_BIN_EXE_clickline-redirect").to_owned(), |path| path.display().to_string());
        let mut server = Server::start(name, cpu, &program, &arguments, port, &folder.join("out.log"))?;
        server.metrics = Some(metrics);
        let end = Instant::now() + Duration::from_secs(180);
        while !fs::read_to_string(&server.log)?.lines().any(|line| line == "ready") {
            if Instant::now() > end {
                return Err(io::Error::other(format!("{name} does not become ready:\n{}", fs::read_to_string(&server.log)?)));
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    /// What the process has used so far.
    pub fn used(&self) -> io::Result<Used> {
        let pid = self.child.id();
        let mut cpu = Duration::ZERO;
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            // Nanoseconds on a processor, nanoseconds that it waited for one, turns.
            let line = fs::read_to_string(task?.path().join("schedstat"))?;
            let nanos = line.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or(0);
            cpu += Duration::from_nanos(nanos);
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let kib =
            status.lines().find_map(|line| line.strip_prefix("VmRSS:")).and_then(|rest| rest.trim().split(' ').next()?.parse::<u64>().ok());
        Ok(Used { cpu, resident: kib.unwrap_or(0) * 1024 })
    }

    /// Waits until it does nothing any more that takes time.
    pub fn settle(&self) -> io::Result<()> {
        const LOOK: Duration = Duration::from_millis(60);
        let mut before = self.used()?.cpu;
        loop {
            thread::sleep(LOOK);
            let now = self.used()?.cpu;
            if now.saturating_sub(before) < LOOK / 50 {
                return Ok(());
            }
            before = now;
        }
    }

    /// Asks it to read its links again.
    pub fn hang_up(&self) -> io::Result<()> {
        self.signal("-HUP")
    }

    /// How often it has read its links again.
    pub fn reloads(&self) -> io::Result<u64> {
        let address = self.metrics.ok_or_else(|| io::Error::other(format!("{} has no metrics", self.name)))?;
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let count = text.lines().find_map(|line| line.strip_prefix(r#"redirect_links_reloads_total{result="taken"} "#)?.parse().ok());
        count.ok_or_else(|| io::Error::other(format!("{} does not say how often it has read its links:\n{text}", self.name)))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends the process as the kernel does when memory is short.
    pub fn kill(pid: u32) -> io::Result<()> {
        let status = Command::new("kill").args(["-KILL", &pid.to_string()]).status()?;
        if status.success() { Ok(()) } else { Err(io::Error::other("nobody to kill")) }
    }

    fn signal(&self, name: &str) -> io::Result<()> {
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status()?;
        if status.success() { Ok(()) } else { Err(io::Error::other(format!("{} is gone", self.name))) }
    }

    /// Asks it to end and waits; its last words.
    pub fn stop(mut self) -> io::Result<String> {
        self.signal("-TERM")?;
        self.child.wait()?;
        fs::read_to_string(&self.log)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Puts this process and the threads it makes from now on onto one processor.
pub fn pin(cpu: usize) -> io::Result<()> {
    let status =
        Command::new("taskset").args(["-acp", &cpu.to_string(), &std::process::id().to_string()]).stdout(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other("taskset refused; the benchmark needs two processors")) }
}

/// How long all processes were on processor `cpu` since the machine started.
pub fn busy(cpu: usize) -> io::Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().find(|line| line.starts_with(&format!("cpu{cpu} "))).unwrap_or_default();
    // user nice system idle iowait irq softirq steal, in hundredths of a second.
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|text| text.parse().ok()).collect();
    let idle = ticks.get(3).copied().unwrap_or(0) + ticks.get(4).copied().unwrap_or(0);
    Ok(Duration::from_millis((ticks.iter().take(8).sum::<u64>() - idle) * 10))
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
