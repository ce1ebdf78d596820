//! A real ClickHouse for a test: a server of the test's own, on a free port, in a temporary folder.
//!
//! # Meaning
//! [`ClickHouse::start_if_there`] starts one and returns when it answers. It can be killed as a power cut would, frozen, and started again on the
//! same address and folder.
//!
//! # Ties and edges
//! - The server's code comes as a library (`tests/clickhouse/fetch`). Where it is not, the test returns, and `tests/zz_left_out.rs`
//!   names what was left out.
//! - It has two users without passwords, on the loopback alone: `default` may do everything, `reader` may read.
//!
//! # Cost
//! About 1 s and 214 MB a server.

use super::ports::free_addresses;
use super::process::{bound_to_this_process, wait_for};
use clickline::sinks::clickhouse::{Service, Settings};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// One user who may do all that tests do, and `reader`, who may only read.
const USERS: &str = "<clickhouse>
  <users_config>config.xml</users_config>
  <users>
    <default><password/><networks><ip>127.0.0.1</ip></networks><profile>default</profile><quota>default</quota></default>
    <reader><password/><networks><ip>127.0.0.1</ip></networks><profile>default</profile><quota>default</quota>
      <grants><query>GRANT SELECT ON *.*</query></grants></reader>
  </users>
  <profiles><default/></profiles>
  <quotas><default/></quotas>
</clickhouse>
";

/// The folder of the library and what starts it, if they were fetched.
pub fn program() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).parent()?.join("clickhouse");
    folder.join(".from").is_file().then_some(folder)
}

/// A running (or killed) server.
pub struct ClickHouse {
    dir: tempfile::TempDir,
    program: PathBuf,
    address: String,
    process: Option<Child>,
    /// Words before the program's: what gives its data a file system of its own.
    around: Vec<String>,
}

/// Bytes of the small disk: the server's own files and some batches.
const SMALL: &str = "size=64m";

/// Words before a program's that give it a file system of its own, of [`SMALL`] size, as `data` in its folder.
///
/// # Errors
/// Why none may be mounted here.
pub fn small_disk() -> Result<Vec<String>, String> {
    let script = format!(r#"mkdir -p data && mount -t tmpfs -o {SMALL} none data && exec "$@""#);
    let enter = |user: &[&str]| {
        let words = [&["unshare"], user, &["--mount", "sh", "-c", script.as_str(), "sh"]].concat();
        words.into_iter().map(str::to_owned).collect::<Vec<String>>()
    };
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let tried = |words: Vec<String>| -> Result<Vec<String>, String> {
        let output = Command::new(&words[0]).args(&words[1..]).arg("true").current_dir(scratch.path()).output();
        let output = output.map_err(|error| format!("unshare does not start ({error})"))?;
        if output.status.success() { Ok(words) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
    };
    tried(enter(&[])).or_else(|_| tried(enter(&["--user", "--map-root-user"])))
}

impl ClickHouse {
    /// A server with nothing in it, or `None` where it was not fetched.
    ///
    /// # Panics
    /// When it is there and does not start.
    pub fn start_if_there() -> Option<ClickHouse> {
        ClickHouse::start(Vec::new())
    }

    /// One whose data is on a file system of its own, of [`SMALL`] size, and where that is to be seen from here; `None` where it was not fetched, or none
    /// may be mounted. The data ends with the process.
    pub fn start_on_a_small_disk() -> Option<(ClickHouse, PathBuf)> {
        let around = small_disk().map_err(|why| eprintln!("left out: no file system may be mounted here: {why}")).ok()?;
        let server = ClickHouse::start(around)?;
        let process = server.process.as_ref().expect("runs").id().to_string();
        let data = server.dir.path().join("data");
        let inside = Path::new("/proc").join(process).join("root").join(data.strip_prefix("/").expect("an absolute path"));
        Some((server, inside))
    }

    fn start(around: Vec<String>) -> Option<ClickHouse> {
        let Some(program) = program() else {
            eprintln!("left out: no ClickHouse here; `tests/clickhouse/fetch` gets it");
            return None;
        };
        let dir = tempfile::Builder::new().prefix("clickline-clickhouse-").tempdir().expect("a temporary folder");
        std::fs::write(dir.path().join("config.xml"), USERS).expect("writes");
        let [address] = free_addresses();
        let mut server = ClickHouse { dir, program, address, process: None, around };
        server.restart();
        Some(server)
    }

    /// `host:port` of its HTTP interface.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Starts a server that was killed.
    pub fn restart(&mut self) {
        assert!(self.process.is_none(), "kill it first");
        let port = self.address.rsplit(':').next().expect("a port");
        let log = || File::options().create(true).append(true).open(self.dir.path().join("log")).expect("writes its log");
        let words: Vec<&str> = self.around.iter().map(String::as_str).chain(["setpriv"]).collect();
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .args(["--pdeathsig", "KILL", "--"])
            .arg(self.program.join("launcher"))
            .arg(self.program.join("libchdb.so"));
        command.arg("--config-file").arg(self.dir.path().join("config.xml"));
        command.arg("--path").arg(self.dir.path().join("data")).args(["--listen_host", "127.0.0.1", "--http_port", port, "--query"]);
        command.arg(
            "SYSTEM START LISTEN HTTP; SELECT sleepEachRow(1) FROM system.numbers LIMIT 86400 \
             SETTINGS max_block_size = 1, function_sleep_max_microseconds_per_block = 0 FORMAT Null",
        );
        command.current_dir(self.dir.path()).stdin(Stdio::null()).stdout(log()).stderr(log());
        let mut process = bound_to_this_process(command);
        wait_for("ClickHouse to answer", || {
            let ended = process.try_wait().ok().flatten();
            let said = || std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            assert!(ended.is_none(), "ClickHouse ended ({ended:?}):\n{}", said());
            (self.try_ask("SELECT 1") == Some("1".to_owned())).then_some(())
        });
        self.process = Some(process);
    }

    /// Ends it as a power cut does.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("our own child");
            process.wait().expect("our own child");
        }
    }

    /// `STOP` freezes it, `CONT` lets it go on.
    pub fn signal(&self, name: &str) {
        let Some(process) = &self.process else { return };
        let status = Command::new("kill").args([&format!("-{name}"), &process.id().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "kill -{name} reaches our own child");
    }

    /// Settings of a sink that writes through `address`, with a batch of so many rows.
    pub fn settings(address: &str, more: &str) -> Settings {
        let text = format!("{{url: 'http://{address}', database: c, batch_wait: 100ms, deadline: 5s{more}}}");
        serde_saphyr::from_str(&text).expect("settings")
    }

    /// The way to the sink's database.
    pub fn service(&self) -> Service {
        Service::new(&ClickHouse::settings(&self.address, "")).expect("a client")
    }

    /// What it answers, without the line's end; `None` when it does not.
    pub fn try_ask(&self, sql: &str) -> Option<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let client = clickline::http::local_client(std::time::Duration::from_secs(10)).expect("a client");
        runtime.block_on(async {
            let answer = client.post(format!("http://{}/", self.address)).body(sql.to_owned()).send().await.ok()?;
            answer.status().is_success().then_some(())?;
            Some(answer.text().await.ok()?.trim_end().to_owned())
        })
    }

    /// What it answers.
    pub fn ask(&self, sql: &str) -> String {
        self.try_ask(sql).unwrap_or_else(|| panic!("ClickHouse does not answer {sql}"))
    }
}

impl Drop for ClickHouse {
    fn drop(&mut self) {
        self.kill();
    }
}
