//! From a request to its answer and its click: the whole behaviour of the server, without a socket.

use crate::asked::{Asked, AskedKeys};
use crate::bots::Reason;
use crate::capture::Ticket;
use crate::click;
use crate::http::{Answer, DateLine, Head, Method};
use crate::links::{Disputes, Link, Live, Table, plain_domain};
use crate::metrics::Metrics;
use crate::query::{self, Marks, Pairs};
use crate::sink::{ClickBatch, ClickSink};
use crate::visitor::{Judge, Visitors};
use crate::{Clock, Config};
use arc_swap::Guard;
use mio::Waker;
use rand::rngs::StdRng;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What all workers share.
pub(crate) struct Shared {
    pub live: Live,
    pub sink: Arc<dyn ClickSink>,
    pub clock: Clock,
    pub default_domain: Option<String>,
    pub country_header: Option<String>,
    /// In the form in which requests are compared with them.
    pub shared_domains: Vec<String>,
    /// What was told of domains that belong to nobody for certain; for those who replace links.
    disputes: Mutex<Disputes>,
    pub metrics: Metrics,
    pub visitors: Arc<Visitors>,
    /// Redirects served: clicks made.
    pub served: AtomicU64,
    /// Each source of links has been read to its end once.
    pub ready: AtomicBool,
    /// The server is about to stop: nobody should be sent here any more.
    pub draining: AtomicBool,
    /// Time to end.
    pub stopping: AtomicBool,
}

impl Shared {
    pub(crate) fn new(config: &Config, visitors: Arc<Visitors>, sink: Arc<dyn ClickSink>) -> Shared {
        Shared {
            live: Live::default(),
            sink,
            clock: config.clock.clone(),
            default_domain: config.default_domain.as_deref().and_then(plain_domain),
            country_header: config.country_header.clone(),
            shared_domains: config.shared_domains.iter().filter_map(|domain| plain_domain(domain)).collect(),
            disputes: Mutex::default(),
            metrics: Metrics::new(config.workers),
            visitors,
            served: AtomicU64::new(0),
            ready: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        }
    }
}

impl Shared {
    /// Tells of domains on which workspaces disagree, behind a change of the links. Not for workers.
    pub(crate) fn tell_disputes(&self) {
        self.disputes.lock().unwrap_or_else(PoisonError::into_inner).tell(&self.live.table(), &self.shared_domains);
    }

    /// The answer of `/healthz`.
    pub(crate) fn health(&self) -> Answer {
        if self.sink.broken().is_some() { Answer::BROKEN } else { Answer::OK }
    }

    /// The answer of `/readyz`.
    pub(crate) fn readiness(&self) -> Answer {
        match (self.ready.load(Ordering::Acquire), self.draining.load(Ordering::Acquire)) {
            (_, true) => Answer::DRAINING,
            (true, false) => Answer::OK,
            (false, false) => Answer::NOT_READY,
        }
    }
}

/// How an answer counts once it has gone out.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Counted {
    /// A redirect, and why it is a machine's, if it is.
    Redirect(Option<Reason>),
    /// Anything else, by its status.
    Page(u16),
}

/// The links, as one turn sees them.
struct Links {
    /// Each source had been read to its end once.
    ready: bool,
    table: Guard<Arc<Table>>,
}

/// Answers requests; one per worker, so that nothing in it is shared.
pub(crate) struct Desk {
    shared: Arc<Shared>,
    /// The number of its worker.
    worker: usize,
    /// Seeded by the system. Makes ids without a system call each.
    random: StdRng,
    date: DateLine,
    judge: Judge,
    /// What the clock said when this turn began, in ms since the epoch: one look for all of its requests.
    now: u64,
    /// Clicks of this turn.
    clicks: ClickBatch,
    /// Answers since this was last asked, but for those that wait.
    answered: u64,
    /// What the answers of this turn wait for, if answers wait.
    ticket: Option<Arc<Ticket>>,
    /// Answers that wait, until their connection takes them.
    uncounted: Vec<Counted>,
    /// The event loop's.
    waker: Option<Arc<Waker>>,
    /// The links of this turn, once one was asked for: one look at them for all of its requests.
    links: Option<Links>,
    /// What was asked for in this turn.
    asked: AskedKeys,
    /// The hashes of those that will be looked up.
    hashes: Vec<u64>,
}

impl Desk {
    /// `waker` is the event loop's, for answers that wait.
    pub(crate) fn new(shared: Arc<Shared>, worker: usize, waker: Option<Arc<Waker>>) -> Desk {
        let judge = Judge::new(shared.visitors.clone());
        Desk {
            now: shared.clock.now(),
            shared,
            worker,
            random: rand::make_rng(),
            date: DateLine::new(),
            judge,
            clicks: ClickBatch::default(),
            answered: 0,
            ticket: None,
            uncounted: Vec::new(),
            waker,
            links: None,
            asked: AskedKeys::default(),
            hashes: Vec::new(),
        }
    }

    /// How many answers were given since this was last asked, but for those that wait.
    pub(crate) fn take_answered(&mut self) -> u64 {
        std::mem::take(&mut self.answered)
    }

    /// Begins a turn.
    pub(crate) fn begin(&mut self) {
        self.date.refresh();
        self.now = self.shared.clock.now();
    }

    /// Notes what a request of this turn asks for, so that [`look_ahead`](Desk::look_ahead) can look at it together with others; `None` when it is no link.
    pub(crate) fn ask(&mut self, head: &Head<'_>) -> Option<Asked> {
        let links = self.links();
        let asked = self.find(&links.table, head);
        self.links = Some(links);
        self.hashes.extend(asked.as_ref().map(|asked| asked.hash));
        asked
    }

    /// The links of this turn, lent.
    fn links(&mut self) -> Links {
        self.links.take().unwrap_or_else(|| {
            // Looked at first: if it is so, the table has all of them.
            let ready = self.shared.ready.load(Ordering::Acquire);
            Links { ready, table: self.shared.live.table() }
        })
    }

    /// Lets go of links that were replaced since the turn began: who was answered from the new ones elsewhere must not get an older answer here. Not while
    /// anything that was [asked](Desk::ask) is to be answered.
    pub(crate) fn refresh(&mut self) {
        if self.links.as_ref().is_some_and(|links| !Arc::ptr_eq(&links.table, &self.shared.live.table())) {
            self.links = None;
            self.asked.clear();
        }
    }

    /// Looks at the links that were asked for, before the first of them is answered.
    pub(crate) fn look_ahead(&mut self) {
        if let Some(Links { table, .. }) = &self.links {
            table.look_ahead(&self.hashes);
        }
        self.hashes.clear();
    }

    /// Ends a turn: its visitors have their answers, its clicks go to the sink.
    pub(crate) fn end(&mut self) {
        // Whoever replaces the links waits until nobody looks at the old ones.
        self.links = None;
        self.asked.clear();
        if !self.clicks.is_empty() {
            self.judge.end_turn();
            match self.ticket.take() {
                Some(ticket) => self.shared.sink.offer_held(&self.clicks, &ticket),
                None => {
                    self.shared.served.fetch_add(self.clicks.len() as u64, Ordering::Relaxed);
                    self.shared.sink.offer(&self.clicks);
                }
            }
            self.clicks.clear();
        }
    }

    /// What the last answer waits for: the clicks of this turn, once there are any. How it counts goes to `counted` then: it counts when it is
    /// let go.
    pub(crate) fn held(&mut self, counted: &mut Vec<Counted>) -> Option<Arc<Ticket>> {
        counted.append(&mut self.uncounted);
        self.ticket.clone()
    }

    /// Answers that waited are let go, so long after the event loop had woken up for them.
    pub(crate) fn let_go(&mut self, counted: &mut Vec<Counted>, waited: Duration) {
        let metrics = self.shared.metrics.worker(self.worker);
        metrics.took(waited, counted.len() as u64);
        let mut served = 0;
        for counted in counted.drain(..) {
            match counted {
                Counted::Redirect(bot) => {
                    metrics.redirected(bot);
                    served += 1;
                }
                Counted::Page(code) => metrics.answered(code),
            }
        }
        self.shared.served.fetch_add(served, Ordering::Relaxed);
    }

    /// Appends the answer to those whose clicks could not be kept, in the place of what `counted` stands for, so long after the event loop had woken up.
    pub(crate) fn unsafe_now(&mut self, counted: &mut Vec<Counted>, waited: Duration, out: &mut Vec<u8>) {
        counted.clear();
        let page = Answer::NO_ROOM;
        let metrics = self.shared.metrics.worker(self.worker);
        metrics.answered(page.code());
        metrics.took(waited, 1);
        page.write(&self.date, false, false, out);
    }

    /// Counts an answer, now or when it is let go.
    fn count(&mut self, counted: Counted) {
        if self.ticket.is_some() {
            self.uncounted.push(counted);
            return;
        }
        self.answered += 1;
        let metrics = self.shared.metrics.worker(self.worker);
        match counted {
            Counted::Redirect(bot) => metrics.redirected(bot),
            Counted::Page(code) => metrics.answered(code),
        }
    }

    /// Appends the answer to a request, for which there may have been an [`ask`](Desk::ask) in this turn.
    pub(crate) fn answer(&mut self, head: &Head<'_>, asked: Option<Asked>, keep_alive: bool, out: &mut Vec<u8>) {
        let head_only = head.method == Method::Head;
        let page = match (head.method, head.path) {
            (Method::Other, _) => Answer::NOT_ALLOWED,
            (_, "/healthz") => self.shared.health(),
            (_, "/readyz") => self.shared.readiness(),
            _ => {
                let links = self.links();
                let asked = asked.or_else(|| self.find(&links.table, head));
                let found = asked.and_then(|asked| links.table.get(asked.hash, self.asked.key(&asked), self.asked.owner(&asked)));
                let page = match found.filter(|link| link.served_at(self.now)) {
                    Some(_) if !self.shared.sink.admits() => Some(Answer::NO_ROOM),
                    Some(link) => {
                        self.redirect(&link, head, keep_alive, out);
                        None
                    }
                    // The link may be among those that are still to be read: nobody should remember a 404 for it.
                    None if !links.ready => Some(Answer::NOT_READY),
                    None => Some(Answer::NOT_FOUND),
                };
                self.links = Some(links);
                let Some(page) = page else { return };
                page
            }
        };
        self.count(Counted::Page(page.code()));
        page.write(&self.date, keep_alive, head_only, out);
    }

    /// Appends a redirect to where a link leads, and makes its click.
    fn redirect(&mut self, link: &Link<'_>, head: &Head<'_>, keep_alive: bool, out: &mut Vec<u8>) {
        let sent: Pairs<'_> = query::pairs(head.query).collect();
        let mut marks = Marks::of(&sent);
        self.judge.expect(link.workspace, &marks);
        let own = link.target.own();
        let known = self.judge.look(link.workspace, link.key, &mut marks, &head.visitor, head.client, self.now);
        let marks = marks.or(Marks::of(&own));
        self.clicks.push(|out| click::write(self.now, link, &marks, &head.visitor, &known, &mut self.random, out));
        let bot = known.bot;
        if self.shared.sink.holds() {
            self.ticket.get_or_insert_with(|| Ticket::new(self.waker.clone()));
        }
        self.count(Counted::Redirect(bot));
        let id = self.clicks.last().map(click::id_of).unwrap_or_default();
        Answer::redirect(&self.date, keep_alive, id, out, |out| link.target.write_location(&own, &sent, out));
    }

    /// What a request asks for, if it can be a link.
    fn find(&mut self, table: &Table, head: &Head<'_>) -> Option<Asked> {
        self.asked.add(table, self.shared.default_domain.as_deref(), &self.shared.shared_domains, head)
    }

    /// Appends the answer to bytes that are no request.
    pub(crate) fn refuse(&mut self, status: u16, out: &mut Vec<u8>) {
        let page = Answer::to_bad(status);
        self.count(Counted::Page(page.code()));
        page.write(&self.date, false, false, out);
    }
}
