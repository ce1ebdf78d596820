//! The sink's threads: one a topic, so that none waits for another.

use super::exposed::{Exposed, Shared};
use super::record::Stream;
use super::run::Run;
use super::settings::Settings;
use super::stats::Stats;
use crate::kafka::Kafka;
use crate::metrics::Metrics;
use crate::stop::Stop;
use anyhow::Context as _;
use std::sync::Arc;
use std::thread::JoinHandle;

/// The running sink. Trouble with ClickHouse never ends it: it waits, and what it waits for stays in Kafka.
#[derive(Debug)]
pub struct Sink {
    stop: Stop,
    topics: Exposed,
    threads: Vec<JoinHandle<()>>,
}

impl Sink {
    /// Starts it; ClickHouse and Kafka need not be there yet.
    ///
    /// # Errors
    /// Settings that are wrong, a password that can't be read, or no threads.
    pub fn start(settings: Settings, kafka: &Kafka, metrics: &Metrics) -> anyhow::Result<Sink> {
        settings.check()?;
        let streams = std::iter::once(Stream::Clicks).chain(settings.topics()?.into_iter().map(Stream::Deltas));
        let settings = Arc::new(settings);
        let mut sink = Sink { stop: Stop::new(), topics: Exposed::default(), threads: Vec::new() };
        let mut topics = Vec::new();
        for stream in streams {
            let stats = Shared::default();
            let run = Run::new(stream, Arc::clone(&settings), kafka, sink.stop.clone(), Arc::clone(&stats))?;
            topics.push((stream.word(), stats));
            let thread = std::thread::Builder::new().name(format!("clickhouse-{}", stream.word()));
            sink.threads.push(thread.spawn(move || run.run()).context("no thread for the ClickHouse sink")?);
        }
        sink.topics.show(topics.clone());
        metrics.clickhouse.show(topics);
        Ok(sink)
    }

    /// The counters as of now, by topic.
    pub fn stats(&self) -> Vec<(&'static str, Stats)> {
        self.topics.stats()
    }

    /// Ends it; a batch under way is sent again by the next start.
    pub fn stop(mut self) {
        self.end();
    }

    /// Asks it to end, and does not wait for it.
    pub fn ask(&self) {
        self.stop.ask();
    }

    fn end(&mut self) {
        self.ask();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!(event = "thread_panicked", "a thread of the ClickHouse sink has panicked");
            }
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.end();
    }
}
