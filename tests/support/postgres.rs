//! A real PostgreSQL for a test: a cluster of the test's own, on a free port, in a temporary folder.
//!
//! # Meaning
//! [`Postgres::start_if_there`] makes a cluster, starts its server and returns when it takes connections. It can be stopped, killed, frozen and started again on
//! the same address and folder.
//!
//! # Ties and edges
//! - The server is Debian's (`apt install postgresql`), or whatever is in the path. Where there is none, the test returns, and
//!   `tests/zz_left_out.rs` names what was left out.
//! - PostgreSQL does not run as root: then it runs as `nobody`.
//! - The server ends with the test's process, however that ends.
//!
//! # Cost
//! About 3 s and 40 MB a cluster.

use super::ports::free_addresses;
use super::process::{bound_to_this_process, wait_for};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The folder of PostgreSQL's programs, if they are installed.
pub fn programs() -> Option<PathBuf> {
    let has = |folder: &PathBuf| folder.join("initdb").is_file() && folder.join("postgres").is_file();
    let in_path = std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default();
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|version| version.path().join("bin"));
    in_path.into_iter().chain(debian).find(has)
}

/// A running (or stopped) server.
pub struct Postgres {
    dir: tempfile::TempDir,
    programs: PathBuf,
    port: u16,
    process: Option<Child>,
}

impl Postgres {
    /// A server with an empty database, or `None` where PostgreSQL is not installed: then the test has nothing to run on and returns.
    ///
    /// # Panics
    /// When it is installed and does not start: that is a failure, not a reason to leave something out.
    pub fn start_if_there() -> Option<Postgres> {
        let mut server = Postgres::made()?;
        server.start();
        Some(server)
    }

    /// The same for one that calls itself `localhost` and takes nothing but TLS, and the file of the authority that has signed its certificate.
    ///
    /// # Panics
    /// As [`Postgres::start_if_there`].
    pub fn start_with_tls_if_there() -> Option<(Postgres, PathBuf)> {
        let mut server = Postgres::made()?;
        let authority = authority();
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name").signed_by(&key, &authority.1);
        let (ca_file, data) = (server.dir.path().join("ca.pem"), server.data());
        std::fs::write(&ca_file, &authority.0).expect("writes");
        std::fs::write(data.join("server.crt"), certificate.expect("a certificate").pem()).expect("writes");
        std::fs::write(data.join("server.key"), key.serialize_pem()).expect("writes");
        std::fs::write(data.join("pg_hba.conf"), "hostssl all all 127.0.0.1/32 trust\n").expect("writes");
        let key_file = data.join("server.key");
        std::fs::set_permissions(&key_file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("its owner's alone");
        if root() {
            give_away(&key_file);
        }
        let settings = File::options().append(true).open(data.join("postgresql.conf"));
        settings.and_then(|mut file| file.write_all(b"ssl = on\n")).expect("writes");
        server.start();
        Some((server, ca_file))
    }

    /// A cluster whose server is not started.
    fn made() -> Option<Postgres> {
        let programs = programs()?;
        let dir = tempfile::tempdir().expect("a folder");
        let [address] = free_addresses();
        let port = address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
        if root() {
            give_away(dir.path());
        }
        let server = Postgres { dir, programs, port, process: None };
        let mut init = server.command("initdb");
        init.args(["--auth", "trust", "--username", "clickline", "--encoding", "UTF8", "--no-sync", "--pgdata"]).arg(server.data());
        let status = init.status().expect("initdb starts (apt install postgresql)");
        assert!(status.success(), "initdb refused:\n{}", server.last_words());
        Some(server)
    }

    /// The address as the configuration has it.
    pub fn address(&self) -> String {
        format!("postgres://clickline@127.0.0.1:{}/postgres", self.port)
    }

    /// The same over TLS, with the server called `host` and how much of TLS is wanted.
    pub fn address_over_tls(&self, host: &str, sslmode: &str) -> String {
        format!("postgres://clickline@{host}:{}/postgres?sslmode={sslmode}", self.port)
    }

    /// Ends the server at once, as `pg_ctl stop -m fast` does: open connections are cut.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let status = Command::new("kill").args(["-INT", &process.id().to_string()]).status();
            assert!(status.is_ok_and(|status| status.success()), "kill -INT reaches our own child");
            wait_for("the server to stop", || process.try_wait().ok().flatten());
        }
    }

    /// Ends the server as a power cut does: all its processes at once (SIGKILL). What it had acknowledged is in the kernel's page cache.
    pub fn kill(&mut self) {
        // Frozen first: it would start a child anew.
        self.signal("STOP");
        self.signal("KILL");
        if let Some(mut process) = self.process.take() {
            process.wait().expect("our own child");
        }
    }

    /// `STOP` freezes the server with all its processes, `CONT` lets it go on.
    pub fn signal(&self, name: &str) {
        let Some(process) = &self.process else { return };
        let of_children = format!("/proc/{0}/task/{0}/children", process.id());
        let children = std::fs::read_to_string(of_children).expect("Linux names a process's children");
        let mut command = Command::new("kill");
        // The server first, so that it starts no more of them.
        let sent = command.arg(format!("-{name}")).arg(process.id().to_string()).args(children.split_whitespace()).status();
        // A child may have ended by itself.
        assert!(sent.is_ok(), "kill starts");
    }

    /// Starts a server that was stopped; returns when it takes connections.
    pub fn start(&mut self) {
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).arg("-k").arg(self.dir.path()).args(["-p", &self.port.to_string()]);
        command.args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]);
        // It listens a little before it answers, and a start before this one has said the same.
        let ready = || std::fs::read_to_string(self.log()).unwrap_or_default().matches("ready to accept connections").count();
        let before = ready();
        let mut process = bound_to_this_process(command);
        wait_for("the server to take connections", || {
            let ended = process.try_wait().ok().flatten();
            assert!(ended.is_none(), "the server ended ({ended:?}):\n{}", self.last_words());
            (ready() > before).then_some(())
        });
        self.process = Some(process);
    }

    /// Runs statements as the administrator would.
    ///
    /// # Panics
    /// When one of them fails.
    pub fn script(&self, statements: &str) {
        self.try_script(statements).expect("statements");
    }

    /// Runs statements as the administrator would.
    pub fn try_script(&self, statements: &str) -> Result<(), tokio_postgres::Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(&self.address(), tokio_postgres::NoTls).await.expect("connects");
            let connection = tokio::spawn(connection);
            let done = client.batch_execute(statements).await;
            drop(client);
            connection.await.expect("does not panic").expect("ends well");
            done
        })
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn command(&self, program: &str) -> Command {
        let log = || File::options().create(true).append(true).open(self.log()).expect("writes its log");
        let mut command = Command::new("setpriv");
        if root() {
            command.args(["--reuid", "nobody", "--regid", "nogroup", "--clear-groups"]);
        }
        command.args(["--pdeathsig", "INT", "--"]).arg(self.programs.join(program));
        command.current_dir(self.dir.path()).stdin(Stdio::null()).stdout(log()).stderr(log());
        command
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("server.log")
    }

    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // SIGQUIT takes the server's own children with it; SIGKILL would not.
            let _ = Command::new("kill").args(["-QUIT", &process.id().to_string()]).status();
            let _ = process.wait();
        }
    }
}

/// A certificate authority that nobody trusts: its certificate in PEM form, and what signs with it.
pub fn authority() -> (String, Issuer<'static, KeyPair>) {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let pem = params.self_signed(&key).expect("a certificate").pem();
    (pem, Issuer::new(params, key))
}

/// Root gives a file or folder to whom the server runs as.
fn give_away(what: &Path) {
    let status = Command::new("chown").arg("nobody").arg(what).status().expect("chown starts");
    assert!(status.success(), "root may give {} away", what.display());
}

fn root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.starts_with("Uid:\t0\t"))
}
