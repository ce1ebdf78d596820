//! Kafka over TLS with SCRAM-SHA-512, on a real broker with a certificate authority of the test's own: a visitor's click goes through the real
//! redirect server and the real job, and whoever has the wrong password, the wrong authority or the wrong server's name gets nowhere.
//!
//! Only in builds with the feature `tls`.

mod support;

use clickline_redirect::{Config, KafkaConfig, Server, SpoolConfig};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use support::job::{topics, wait_for_events};
use support::kafka::{Broker, Secure};

const USER: &str = "clickline";
const PASSWORD: &str = "a-password-of-the-test";

/// An authority's certificate, and key and certificate of a server that it vouches for, all PEM.
fn authority(servers: &[&str]) -> (String, String) {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "an authority of the test");
    let key = KeyPair::generate().expect("a key");
    let pem = params.self_signed(&key).expect("a certificate").pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().expect("a key");
    let names: Vec<String> = servers.iter().map(|name| (*name).to_owned()).collect();
    let certificate = CertificateParams::new(names).expect("names").signed_by(&key, &issuer).expect("a certificate");
    (pem, format!("{}{}", key.serialize_pem(), certificate.pem()))
}

/// A job that is ended with the test.
struct Job(Child);

impl Drop for Job {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn configuration(folder: &Path, brokers: &str, authority: &Path) -> std::path::PathBuf {
    let path = folder.join("clickline.yaml");
    let text = format!(
        "kafka:\n  brokers: '{brokers}'\n  properties:\n    security.protocol: SASL_SSL\n    sasl.mechanism: SCRAM-SHA-512\n    sasl.username: {USER}\n    \
         ssl.ca.location: '{}'\n  properties_env: {{sasl.password: KAFKA_PASSWORD}}\nworkspaces: {{w: {{portals: ['1']}}}}\n",
        authority.display()
    );
    fs::write(&path, text).expect("writes");
    path
}

/// What `clickline doctor` says of the brokers, and whether they answer.
fn doctor(config: &Path, password: &str) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clickline"));
    command.args(["doctor", "--config"]).arg(config).env("KAFKA_PASSWORD", password).stdin(Stdio::null());
    let output = command.output().expect("runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains(PASSWORD), "no password is shown:\n{said}");
    let answered = said.lines().any(|line| line.starts_with("ok") && line.contains("brokers: 1 answer"));
    (answered, said)
}

#[test]
fn a_click_goes_through_tls_and_scram_and_strangers_get_nowhere() {
    let (trusted, keys) = authority(&["localhost"]);
    let secure = Secure { keys: &keys, user: USER, password: PASSWORD };
    let Some((broker, named)) = Broker::start_secure_if_there(&secure) else { return };
    topics(&broker);
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    fs::write(at("ca.pem"), &trusted).expect("writes");
    fs::write(at("other.pem"), authority(&["localhost"]).0).expect("writes");
    let unnamed = named.replace("localhost", "127.0.0.1");

    for (brokers, ca, password, why) in [
        (&named, "ca.pem", "another-password", "password"),
        (&named, "other.pem", PASSWORD, "authority"),
        (&unnamed, "ca.pem", PASSWORD, "name"),
    ] {
        let (answered, said) = doctor(&configuration(folder.path(), brokers, &at(ca)), password);
        assert!(!answered && said.contains("do not answer"), "the wrong {why}:\n{said}");
    }

    let config = configuration(folder.path(), &named, &at("ca.pem"));
    let (answered, said) = doctor(&config, PASSWORD);
    assert!(answered, "{said}");
    let log = || fs::File::options().create(true).append(true).open(at("job.log")).expect("a log");
    let mut command = Command::new(env!("CARGO_BIN_EXE_clickline"));
    command.args(["run", "--no-sink", "--config"]).arg(&config).env("KAFKA_PASSWORD", PASSWORD);
    let _job = Job(command.stdin(Stdio::null()).stdout(log()).stderr(log()).spawn().expect("starts"));

    fs::write(at("links.yaml"), "- {domain: d, slug: '1', workspace: w, destination: 'https://example.com/1'}\n").expect("writes");
    fs::create_dir(at("spool")).expect("a folder");
    let ca = at("ca.pem").display().to_string();
    let options = [
        ("security.protocol", "SASL_SSL"),
        ("sasl.mechanism", "SCRAM-SHA-512"),
        ("sasl.username", USER),
        ("sasl.password", PASSWORD),
        ("ssl.ca.location", &ca),
    ];
    let properties: BTreeMap<_, _> = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let server = Server::start(Config {
        workers: 1,
        links_file: Some(at("links.yaml")),
        kafka: Some(KafkaConfig { properties, ..KafkaConfig::at(&named) }),
        spool: Some(SpoolConfig::at(at("spool"))),
        ..Config::default()
    })
    .expect("starts");
    assert!(server.ready(Duration::from_secs(60)), "the redirect server is ready");
    for contact in 0..20 {
        let mut stream = TcpStream::connect(server.address()).expect("connects");
        write!(stream, "GET /1?eid={contact} HTTP/1.1\r\nHost: d\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\nConnection: close\r\n\r\n").expect("sends");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 302"), "{answer}");
    }
    // Looked for by the plain listener: what the job committed through the other one.
    wait_for_events(&broker, 20);
    assert_eq!(server.stop().delivered, 20);
}
