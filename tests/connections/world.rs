//! What these tests share: a sandbox, a table of connections, and settings that fit both.

pub use crate::support::postgres::Postgres as Cluster;
pub use crate::support::process::wait_for;
use clickline::metrics::Metrics;
use clickline::oauth::{Access, Connections, Facts, Postgres, Store, TokenError};
use clickline::sinks::hubspot::{Secret, Settings};
use clickline::state::State;
use clickline_sandbox::{Config, Rotation, Sandbox};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

pub const PORTAL: &str = "4242";
/// A sandbox, a table of connections, and settings that fit both.
pub struct World {
    pub sandbox: Sandbox,
    pub folder: tempfile::TempDir,
    pub cluster: Option<Cluster>,
    pub settings: Settings,
}

impl World {
    pub fn new(config: Config, cluster: Option<Cluster>) -> World {
        let sandbox = Sandbox::start(config).expect("a sandbox");
        let tokens = BTreeMap::from([(PORTAL.to_owned(), sandbox.refresh_token(PORTAL))]);
        let mut settings = Settings::for_sandbox(&sandbox.url(), "clickline", "sandbox-secret", tokens);
        settings.connections.postgres = cluster.as_ref().map(|cluster| Secret::new(cluster.address()));
        settings.request_timeout = Duration::from_secs(5);
        World { sandbox, folder: tempfile::tempdir().expect("a folder"), cluster, settings }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("state.db")
    }

    pub fn open(&self) -> Connections {
        open(&self.settings, &self.path())
    }

    /// The table itself.
    pub fn store(&self) -> Box<dyn Store> {
        match &self.cluster {
            Some(cluster) => Box::new(block_on(Postgres::open(&cluster.address(), None)).expect("opens")),
            None => Box::new(State::open(&self.path()).expect("opens")),
        }
    }

    /// Calls to the token endpoint, by the sandbox's log.
    pub fn token_calls(&self) -> usize {
        self.sandbox.requests().iter().filter(|request| request.path.ends_with("/token")).count()
    }

    /// Starts this program again, to do `what` with the connections.
    pub fn child(&self, what: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", "processes::child", "--ignored", "--nocapture"]);
        let keys = self.settings.connections.keys.as_ref().expect("keys").reveal();
        let token = self.settings.portals[PORTAL].refresh_token.as_ref().expect("a token").reveal();
        command.env("CHILD_DOES", what).env("CHILD_URL", self.sandbox.url()).env("CHILD_KEYS", keys).env("CHILD_TOKEN", token);
        command.env("CHILD_WITHIN", self.settings.request_timeout.as_secs().to_string());
        command.env("CHILD_STATE", self.path()).env("CHILD_GATE", self.folder.path().join("gate"));
        if let Some(cluster) = &self.cluster {
            command.env("CHILD_POSTGRES", cluster.address());
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

pub fn open(settings: &Settings, state: &std::path::Path) -> Connections {
    try_open(settings, state).expect("opens")
}

pub fn try_open(settings: &Settings, path: &std::path::Path) -> anyhow::Result<Connections> {
    let state = Arc::new(State::open(path)?);
    Connections::open(settings, &state, path, &[PORTAL.to_owned()], Arc::new(Metrics::default()))
}

/// Runs something that may use sockets and timers, PostgreSQL's among them: connections to it live on a thread of their own.
pub fn block_on<T>(what: impl Future<Output = T>) -> T {
    use std::sync::LazyLock;
    static RUNTIME: LazyLock<tokio::runtime::Runtime> =
        LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime"));
    RUNTIME.block_on(what)
}

pub fn access(connections: &Connections) -> Result<Access, TokenError> {
    block_on(connections.access(PORTAL))
}

pub fn facts(connections: &Connections) -> Facts {
    let [status] = connections.status().expect("reads").try_into().expect("one portal");
    status.facts.unwrap_or_else(|| panic!("{:?}", status.problem))
}

/// Both kinds of table; PostgreSQL where it is installed.
pub fn clusters() -> Vec<Option<Cluster>> {
    let mut all = vec![None];
    all.extend(Cluster::start_if_there().map(Some));
    all
}

pub fn rotating() -> Config {
    // The strictest that a server may be: a refresh token that comes twice ends all that came from it.
    Config { rotation: Rotation::Always, reuse_revokes_family: true, ..Config::default() }
}
