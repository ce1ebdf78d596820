//! A door before the sandbox that says how far a connection comes: TLS with a certificate of one's choice, plain TCP, or silence.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// How far a connection comes.
#[derive(Clone)]
pub enum Way {
    /// To the sandbox.
    Plain,
    /// To the sandbox, if the caller likes the certificate.
    Tls(Arc<ServerConfig>),
    /// It is accepted, and nothing is ever said.
    Silent,
}

/// A running door.
pub struct Front {
    port: u16,
    way: Option<watch::Sender<Way>>,
    seen: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Front {
    /// Takes the connections to `listener` on, for the server at `target`.
    pub fn start(listener: TcpListener, target: &str, way: Way) -> Front {
        listener.set_nonblocking(true).expect("set");
        let port = listener.local_addr().expect("an address").port();
        let target = target.trim_start_matches("http://").to_owned();
        let (sender, way) = watch::channel(way);
        let seen = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&seen);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(accept(listener, target, way, count));
        });
        Front { port, way: Some(sender), seen, thread: Some(thread) }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Connections so far.
    pub fn seen(&self) -> usize {
        self.seen.load(Ordering::Relaxed)
    }

    /// From now on it is this way; whoever came in by another is put out.
    pub fn set(&self, way: Way) {
        self.way.as_ref().expect("runs").send_replace(way);
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        drop(self.way.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, target: String, way: watch::Receiver<Way>, count: Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    let mut ended = way.clone();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (connection, _) = accepted.expect("a connection");
                count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(connection, target.clone(), way.clone()));
            }
            changed = ended.changed() => if changed.is_err() { return },
        }
    }
}

async fn serve(connection: TcpStream, target: String, mut way: watch::Receiver<Way>) {
    let now = way.borrow_and_update().clone();
    let work = async {
        match now {
            Way::Silent => std::future::pending().await,
            Way::Plain => tunnel(connection, &target).await,
            Way::Tls(config) => {
                if let Ok(connection) = TlsAcceptor::from(config).accept(connection).await {
                    tunnel(connection, &target).await;
                }
            }
        }
    };
    tokio::select! {
        () = work => {}
        _ = way.changed() => {}
    }
}

async fn tunnel(mut connection: impl AsyncRead + AsyncWrite + Unpin, target: &str) {
    let mut sandbox = TcpStream::connect(target).await.expect("the sandbox is there");
    // Either side may leave.
    let _ = tokio::io::copy_bidirectional(&mut connection, &mut sandbox).await;
}

/// Whether a certificate's time has come.
#[derive(Clone, Copy)]
pub enum Time {
    Over,
    Now,
    ToCome,
}

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// Its certificate, as a file in `folder`.
    pub fn file(&self, folder: &Path) -> PathBuf {
        let path = folder.join("ca.pem");
        std::fs::write(&path, &self.pem).expect("writes");
        path
    }

    /// A server with a certificate that it has signed.
    pub fn server(&self, name: &str, time: Time) -> Way {
        let key = KeyPair::generate().expect("a key");
        let certificate = leaf(name, time).signed_by(&key, &self.issuer).expect("a certificate");
        tls(certificate.der().clone(), &key)
    }
}

/// A server with a certificate that nobody else has signed.
pub fn self_signed(name: &str) -> Way {
    let key = KeyPair::generate().expect("a key");
    let certificate = leaf(name, Time::Now).self_signed(&key).expect("a certificate");
    tls(certificate.der().clone(), &key)
}

fn leaf(name: &str, time: Time) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
    let year: i32 = crate::model::time::rfc3339(crate::model::time::now())[..4].parse().expect("a year");
    let first = |year: i32| date_time_ymd(year, 1, 1);
    (params.not_before, params.not_after) = match time {
        Time::Over => (first(year - 9), first(year - 1)),
        Time::Now => (first(year - 1), first(year + 2)),
        Time::ToCome => (first(year + 2), first(year + 9)),
    };
    params
}

fn tls(certificate: CertificateDer<'static>, key: &KeyPair) -> Way {
    crate::http::install_provider();
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key.into()).expect("a certificate");
    Way::Tls(Arc::new(config))
}
