//! Starts and stops the sink: threads, runtime, clients.

use super::dead_letters::DeadLetters;
use super::reader;
use super::record::Lane;
use super::run::{Run, Stop};
use super::service::Service;
use super::settings::Settings;
use super::stats::Stats;
use crate::kafka::Kafka;
use crate::metrics::Metrics;
use crate::model::time;
use crate::oauth::Connections;
use crate::state::State;
use anyhow::Context;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::{mpsc, watch};

/// A running sink. Dropped, it stops as by [`Sink::stop`].
#[derive(Debug)]
pub struct Sink {
    stop: watch::Sender<Stop>,
    stats: Arc<Mutex<Stats>>,
    service: Arc<Service>,
    connections: Arc<Connections>,
    /// Ends the readers.
    halt: Arc<AtomicBool>,
    thread: Option<JoinHandle<anyhow::Result<Stats>>>,
}

impl Sink {
    /// Starts a sink for `portals` on threads of its own. Topics that are not there yet are waited for, and so is HubSpot.
    ///
    /// # Errors
    /// When the settings are wrong, a secret can't be read, or the state database can't be opened.
    pub fn start(settings: Settings, kafka: Kafka, portals: Vec<String>, state: &Path) -> anyhow::Result<Sink> {
        Self::start_counted(settings, kafka, portals, state, Arc::new(Metrics::default()))
    }

    /// The same, and counts in `metrics`.
    ///
    /// # Errors
    /// As [`Sink::start`].
    // By value: the sink keeps them.
    #[expect(clippy::needless_pass_by_value)]
    pub fn start_counted(
        settings: Settings,
        kafka: Kafka,
        portals: Vec<String>,
        state: &Path,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Sink> {
        settings.check(&portals)?;
        let settings = Arc::new(settings);
        let path = state;
        let state = Arc::new(State::open(path)?);
        let stopped = state.resume(time::now())?;
        if stopped > 0 {
            tracing::info!(
                event = "sink_was_away",
                stopped_ms = stopped,
                "time in which no sink ran takes nothing from the time that records are tried for"
            );
        }
        let stats = Arc::new(Mutex::new(Stats::default()));
        metrics.sink.show(&stats);
        let connections = Arc::new(Connections::open(&*settings, &state, path, &portals, metrics)?);
        let service = Arc::new(Service::new(&settings, Arc::clone(&connections), &portals)?);
        let dead_letters = DeadLetters::new(&kafka, Arc::clone(&state))?;
        let run = Run::new(settings, kafka.clone(), Arc::clone(&state), Arc::clone(&service), dead_letters, &portals, Arc::clone(&stats));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime for the HubSpot sink")?;

        let halt = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        let mut receivers = Vec::new();
        for lane in Lane::ALL {
            let (sender, receiver) = mpsc::channel(reader::CHANNEL);
            receivers.push(receiver);
            threads.push(reader::start(lane, &kafka, &state, &halt, sender)?);
        }
        let Ok(receivers) = <[_; 3]>::try_from(receivers) else { unreachable!("there are three lanes") };
        let (stop, stopped) = watch::channel(Stop::No);
        let of_thread = Arc::clone(&halt);
        let thread = std::thread::Builder::new().name("hubspot-sink".to_owned()).spawn(move || {
            let result = tokio::task::LocalSet::new().block_on(&runtime, run.run(receivers, stopped));
            of_thread.store(true, Ordering::Relaxed);
            // What a reader had to say has been said.
            threads.into_iter().for_each(|thread| drop(thread.join()));
            // A name that is being looked up is nobody's business any more.
            runtime.shutdown_background();
            if let Err(error) = &result {
                tracing::error!(event = "hubspot_sink_failed", "the HubSpot sink has ended: {error:#}");
            }
            result
        });
        Ok(Sink { stop, stats, service, connections, halt, thread: Some(thread.context("no thread for the HubSpot sink")?) })
    }

    /// The sink's way to HubSpot, for others in the process: one budget and one set of tokens an account.
    pub(crate) fn service(&self) -> Arc<Service> {
        Arc::clone(&self.service)
    }

    /// The connections that it writes over.
    pub fn connections(&self) -> &Arc<Connections> {
        &self.connections
    }

    /// The counters as of now.
    pub fn stats(&self) -> Stats {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it still runs; if not, [`Sink::stop`] says why.
    pub fn running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Lets requests in flight finish, commits, ends; gives back the last counters.
    ///
    /// # Errors
    /// What ended the sink, if it did not run any more.
    pub fn stop(mut self) -> anyhow::Result<Stats> {
        self.end(Stop::Gently)
    }

    /// Ends as a crash would, for tests of what comes after one: nothing more is sent, settled or committed.
    pub fn kill(mut self) {
        let _ = self.end(Stop::Dead);
    }

    fn end(&mut self, how: Stop) -> anyhow::Result<Stats> {
        // It may have ended already; then its result is waiting.
        let _ = self.stop.send(how);
        // After that: the loop takes a reader that has ended for a failure unless it was told to stop. One that waits for brokers does so meanwhile.
        self.halt.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return Ok(self.stats()) };
        thread.join().map_err(|_| anyhow::anyhow!("the HubSpot sink has panicked"))?
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if self.thread.is_some() {
            // The thread has logged its error.
            let _ = self.end(Stop::Gently);
        }
    }
}
