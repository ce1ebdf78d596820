//! The sources that fill the job's input topics from outside: the CRM mirror and the forms. Started and stopped here.
//!
//! # Meaning
//! They run on one thread, apart from the job, and share with it the topics alone. Trouble with HubSpot is logged and tried again; when
//! Kafka fails they begin anew from what is in the topics, after a pause that grows to a minute. Nothing of that ends the job.
//!
//! # Start
//! What is posted before the topics are there is answered with 503: a broker that makes topics by itself would make them with its own
//! number of partitions and its own clock, and what is behind the first partition would never be read.
//!
//! # Stop
//! They end at once, wherever they are: what was not acknowledged is done again after the next start.

use super::crm::{Crm, webhooks};
use super::forms::{Forms, FormsSettings, endpoint};
use super::kafka::Clock;
use super::writer::Writer;
use crate::dataflow::plan::Plan;
use crate::kafka::Kafka;
use crate::metrics::{FormSource, FormTaken, Metrics};
use crate::model::time::{DAY, Ms};
use crate::sinks::hubspot::{Service, Settings};
use crate::sinks::outbox::topics::{self, Kept, Needed};
use crate::sources::crm::{Changes, CrmSettings};
use crate::state::State;
use crate::stop::Stop;
use anyhow::Context as _;
use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse as _;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;

/// How long what webhooks say is kept: so long the job may be away and still follow them.
const CHANGES_FOR: Ms = 7 * DAY;
/// The first pause before a source that has ended begins anew, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What is to be fed, as it is configured.
pub struct Feeding {
    /// Brokers and topics.
    pub kafka: Kafka,
    /// The mirror, if there is to be one.
    pub crm: Option<CrmSettings>,
    /// The forms, if there are to be any.
    pub forms: Option<FormsSettings>,
    /// HubSpot's settings, and the way there.
    pub(crate) hubspot: Option<(Settings, Arc<Service>)>,
    /// The state database, where it stands who was erased.
    pub state: PathBuf,
    /// The accounts to mirror.
    pub portals: Vec<String>,
    /// How the world reaches the job's HTTP server, without a slash at the end; none where there is no server.
    pub public_url: Option<String>,
    /// How far a form may lie ahead of the clock, ms.
    pub max_future: Ms,
    /// Where it is counted.
    pub metrics: Arc<Metrics>,
    /// The wall clock.
    pub now: Clock,
}

/// What feeds, not started yet.
pub struct Prepared {
    kafka: Kafka,
    crm: Option<Crm>,
    forms: Option<Forms>,
    routes: Router,
    /// Whether the topics are there.
    there: Arc<AtomicBool>,
    /// Whether nothing is configured.
    idle: bool,
}

impl Feeding {
    /// Whether anything is read from HubSpot.
    pub fn reads_hubspot(&self) -> bool {
        self.crm.is_some() || self.forms.as_ref().is_some_and(|forms| !forms.hubspot.is_empty())
    }

    /// Reads secrets and makes clients; opens no connection to HubSpot and waits for none to the brokers.
    ///
    /// # Errors
    /// A secret that can't be read, or options that do not make a client.
    pub fn prepare(self) -> anyhow::Result<Prepared> {
        let Feeding { kafka, crm, forms, hubspot, state, portals, public_url, max_future, metrics, now } = self;
        let idle = crm.is_none() && forms.is_none();
        let mut routes = Router::new();
        let crm = match (crm, &hubspot) {
            (Some(settings), Some((hubspot, service))) => {
                let webhooks = settings.changes == Changes::Webhooks;
                let crm = Crm::new(
                    kafka.clone(),
                    settings,
                    hubspot,
                    Arc::clone(service),
                    portals.clone(),
                    Arc::clone(&now),
                    Arc::clone(&metrics),
                    Arc::new(State::open(&state)?),
                )?;
                if let Some(secret) = crm.secret().filter(|_| webhooks) {
                    let endpoint = webhooks::Endpoint {
                        secret,
                        public_url: public_url.context("crm: webhooks need the block `http`")?,
                        portals: portals.into_iter().collect(),
                        topic: kafka.topics.changes.clone(),
                        writer: Writer::new(&kafka, Some(webhooks::PATIENCE))?,
                    };
                    routes = routes.merge(webhooks::routes(endpoint, Arc::clone(&now)));
                }
                Some(crm)
            }
            (Some(_), None) => anyhow::bail!("crm: needs the block `hubspot`"),
            (None, _) => None,
        };
        let taken = |source| metrics.forms.get_or_create(&FormTaken { source }).clone();
        let mut polled = None;
        if let Some(settings) = forms {
            if !settings.keys.is_empty() {
                let keys: BTreeMap<_, _> = settings
                    .keys
                    .iter()
                    .map(|(id, key)| Ok((id.clone(), (key.workspace.clone(), key.read(id)?))))
                    .collect::<anyhow::Result<_>>()?;
                let writer = Writer::new(&kafka, Some(endpoint::PATIENCE))?;
                let (topic, now) = (kafka.topics.forms.clone(), Arc::clone(&now));
                routes = routes.merge(endpoint::routes(endpoint::Endpoint {
                    keys,
                    topic,
                    writer,
                    max_future,
                    taken: taken(FormSource::Post),
                    now,
                }));
            }
            if !settings.hubspot.is_empty() {
                let (_, service) = hubspot.context("forms.hubspot: needs the block `hubspot`")?;
                polled = Some(Forms { kafka: kafka.clone(), settings, service, taken: taken(FormSource::HubSpot), now });
            }
        }
        let there = Arc::<AtomicBool>::default();
        Ok(Prepared { kafka, crm, forms: polled, routes: once_there(routes, Arc::clone(&there)), there, idle })
    }
}

/// These routes, once there is a place for what is sent to them.
fn once_there(routes: Router, there: Arc<AtomicBool>) -> Router {
    routes.layer(from_fn(move |request: Request, next: Next| {
        let there = there.load(Ordering::Acquire);
        async move {
            if there {
                next.run(request).await
            } else {
                let wait = [(header::RETRY_AFTER, "1")];
                (StatusCode::SERVICE_UNAVAILABLE, wait, "The topics are not there yet; try again.\n").into_response()
            }
        }
    }))
}

/// The topics that are fed, and those that the sources keep for themselves.
pub fn needed(kafka: &Kafka, plan: &Plan) -> Vec<Needed> {
    let fed = [&kafka.topics.contacts, &kafka.topics.deals, &kafka.topics.forms];
    let mut needed: Vec<Needed> = topics::needed(kafka, plan).into_iter().filter(|topic| fed.contains(&&topic.name)).collect();
    let own = |name: &str, kept| Needed { name: name.to_owned(), kept, partitions: Some(1) };
    needed.push(own(&kafka.topics.sources, Kept::Newest));
    needed.push(own(&kafka.topics.changes, Kept::For(CHANGES_FOR)));
    needed
}

/// Sources that run. Dropped, they stop.
pub struct Feeds {
    stop: Stop,
    stopped: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Prepared {
    /// The routes for the job's HTTP server.
    pub fn routes(&self) -> Router {
        self.routes.clone()
    }

    /// Starts what is to run beside the routes; nothing at all where nothing is configured.
    ///
    /// # Errors
    /// When the runtime or thread can't be made.
    pub fn start(self, needed: Vec<Needed>) -> anyhow::Result<Feeds> {
        let Prepared { kafka, crm, forms, routes: _, there, idle } = self;
        let (stop, (stopped, wished)) = (Stop::new(), watch::channel(false));
        if idle {
            return Ok(Feeds { stop, stopped, thread: None });
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime for the sources")?;
        let asked = stop.clone();
        let thread = std::thread::Builder::new().name("feeds".to_owned()).spawn(move || {
            if !insist(|| topics::ensure(&kafka, &needed, &asked), PAUSES, &asked, &runtime, &wished) {
                return;
            }
            there.store(true, Ordering::Release);
            let feeding = tokio::task::LocalSet::new();
            if let Some(crm) = crm {
                let asked = asked.clone();
                feeding.spawn_local(async move {
                    again("the CRM mirror", &asked, async || crm.run(&asked).await).await;
                });
            }
            if let Some(forms) = forms {
                feeding.spawn_local(async move {
                    again("the forms source", &asked, async || forms.run(&asked).await).await;
                });
            }
            feeding.block_on(&runtime, wait(wished));
            drop(feeding);
            // Calls to the brokers that block end within seconds, and nothing depends on them.
            runtime.shutdown_background();
        });
        Ok(Feeds { stop, stopped, thread: Some(thread.context("no thread for the sources")?) })
    }
}

async fn wait(mut wished: watch::Receiver<bool>) {
    // An error says that nobody is there any more who could wish it.
    let _ = wished.wait_for(|stop| *stop).await;
}

/// Does what the sources need before they start, with pauses that grow from the first to the second, until it is done or `stop` is
/// asked. Says whether it is done.
fn insist(
    mut what: impl FnMut() -> anyhow::Result<()>,
    (mut pause, longest): (Duration, Duration),
    stop: &Stop,
    runtime: &tokio::runtime::Runtime,
    wished: &watch::Receiver<bool>,
) -> bool {
    while !stop.asked() {
        match what() {
            Ok(()) => return true,
            Err(_) if stop.asked() => {}
            Err(error) => tracing::error!(event = "sources_not_started", "the sources can't start yet, and try again: {error:#}"),
        }
        let paused = pause.mul_f64(rand::random_range(0.5..1.0));
        // The end of the pause or the wish to stop: the loop tells them apart.
        let _ = runtime.block_on(async { tokio::time::timeout(paused, wait(wished.clone())).await });
        pause = longest.min(pause * 2);
    }
    false
}

/// Runs a source again and again, with pauses that grow while it does not last.
async fn again(what: &str, stop: &Stop, run: impl AsyncFn() -> anyhow::Result<()>) {
    let mut pause = PAUSES.0;
    loop {
        let began = tokio::time::Instant::now();
        let ended = run().await;
        if stop.asked() {
            return;
        }
        if let Err(error) = ended {
            tracing::error!(event = "source_restarted", "{what} begins anew: {error:#}");
        }
        if began.elapsed() > PAUSES.1 {
            pause = PAUSES.0;
        }
        tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
        pause = PAUSES.1.min(pause * 2);
    }
}

impl Feeds {
    /// Stops them; they end at once.
    pub fn stop(mut self) {
        self.end();
    }

    /// Asks them to stop, and does not wait for it.
    pub fn ask(&self) {
        self.stop.ask();
        // Nobody listens where the thread has ended.
        let _ = self.stopped.send(true);
    }

    fn end(&mut self) {
        self.ask();
        if let Some(thread) = self.thread.take() {
            // A panic has been printed; stopping has nothing to add.
            let _ = thread.join();
        }
    }
}

impl Drop for Feeds {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(8));

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
    }

    #[test]
    fn sources_start_once_what_they_need_is_there() {
        let (_wish, wished) = watch::channel(false);
        let mut tries = 0;
        let refused_at_first = || {
            tries += 1;
            anyhow::ensure!(tries > 5, "the brokers refuse to create the topic");
            Ok(())
        };
        assert!(insist(refused_at_first, QUICK, &Stop::new(), &runtime(), &wished));
        assert_eq!(tries, 6);
    }

    #[test]
    fn nothing_is_taken_before_there_is_a_place_for_it() {
        let there = Arc::<AtomicBool>::default();
        let routes = once_there(Router::new().route("/forms", axum::routing::post(|| async { "taken" })), Arc::clone(&there));
        runtime().block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free address");
            let url = format!("http://{}/forms", listener.local_addr().expect("an address"));
            let server = tokio::spawn(async move { axum::serve(listener, routes).await });
            let client = crate::http::local_client(Duration::from_secs(10)).expect("a client");
            let early = client.post(&url).send().await.expect("an answer");
            assert_eq!((early.status().as_u16(), early.headers()["retry-after"].as_bytes()), (503, &b"1"[..]));
            there.store(true, Ordering::Release);
            assert_eq!(client.post(&url).send().await.expect("an answer").status().as_u16(), 200);
            server.abort();
        });
    }

    #[test]
    fn sources_that_cannot_start_can_be_stopped() {
        let (wish, wished) = watch::channel(false);
        let (stop, hour) = (Stop::new(), Duration::from_secs(3600));
        let asked = stop.clone();
        let trying = std::thread::spawn(move || insist(|| anyhow::bail!("the brokers refuse"), (hour, hour), &asked, &runtime(), &wished));
        stop.ask();
        wish.send(true).expect("somebody listens");
        assert!(!trying.join().expect("ends at once"));
    }
}
