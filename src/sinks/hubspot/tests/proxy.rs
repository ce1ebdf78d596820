//! A proxy before the sandbox that misbehaves as told.

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

/// A request on its way.
pub struct Seen<'a> {
    /// Path without query.
    pub path: &'a str,
    /// Body, as text.
    pub body: &'a str,
    /// How many requests with the same end came before, by the test's own count.
    pub number: usize,
}

/// What to do with it.
pub enum Fault {
    /// Nothing.
    None,
    /// Answer this instead: status, `Retry-After`, body.
    Answer(u16, Option<&'static str>, &'static str),
    /// Let the sandbox do it, and answer 502.
    Lose,
    /// Let the sandbox do it, and never answer.
    Hang,
}

type Script = Arc<dyn Fn(&Seen<'_>) -> Fault + Send + Sync>;

#[derive(Clone)]
struct Shared {
    target: String,
    http: reqwest::Client,
    script: Script,
    count: Arc<AtomicUsize>,
}

/// A running proxy.
pub struct Proxy {
    url: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Starts one before `target`. Requests whose path ends with `counted` are numbered from 0.
    pub fn start(target: &str, counted: &'static str, script: impl Fn(&Seen<'_>) -> Fault + Send + Sync + 'static) -> Proxy {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("set");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let http = crate::http::client(Duration::from_secs(30)).expect("a client");
        let shared = Shared { target: target.to_owned(), http, script: Arc::new(script), count: Arc::default() };
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                let forward = move |state, method, uri, headers, body| forward(state, method, uri, headers, body, counted);
                let app = Router::new().fallback(forward).with_state(shared);
                tokio::select! {
                    served = axum::serve(listener, app) => served.expect("serves"),
                    _ = stopped => {}
                }
            });
        });
        Proxy { url, stop: Some(stop), thread: Some(thread) }
    }

    pub fn url(&self) -> String {
        self.url.clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn forward(
    State(shared): State<Shared>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
    counted: &'static str,
) -> Response {
    let number = if uri.path().ends_with(counted) { shared.count.fetch_add(1, Ordering::Relaxed) } else { usize::MAX };
    let text = String::from_utf8_lossy(&body);
    let fault = (shared.script)(&Seen { path: uri.path(), body: &text, number });
    if let Fault::Answer(status, retry_after, body) = fault {
        let status = StatusCode::from_u16(status).expect("a status");
        let after = retry_after.map(|after| [("retry-after", after)]);
        return match after {
            Some(after) => (status, after, body).into_response(),
            None => (status, body).into_response(),
        };
    }
    let mut request = shared.http.request(method, format!("{}{uri}", shared.target)).body(body);
    for name in ["authorization", "content-type"] {
        if let Some(value) = headers.get(name) {
            request = request.header(name, value);
        }
    }
    let response = request.send().await.expect("the sandbox answers");
    let status = response.status();
    let answer = response.bytes().await.expect("a body");
    match fault {
        Fault::None | Fault::Answer(..) => (status, [("content-type", "application/json")], answer).into_response(),
        Fault::Lose => (StatusCode::BAD_GATEWAY, "<html>").into_response(),
        Fault::Hang => std::future::pending().await,
    }
}
