//! Every interleaving of a few refreshers over one row, crashes and lost answers included.
//!
//! The real [`step`], [`call_within`] and [`settle`] are driven as the keeper drives them; the store, HubSpot and the processes are a model. Time may pass a
//! lease's end at any moment but during a call, which ends before. A state is visited once, so the search is complete within its bounds.
//!
//! HubSpot rotates the refresh token with each refresh and revokes the whole grant when a spent one comes again: the worst case.

use super::*;
use std::collections::{HashSet, VecDeque};

const NOW: Ms = 1_800_000_000_000;
const LEASE: Ms = 20_000;
const LIFE: u64 = 1_800;

/// Where a refresher is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum At {
    /// About to read the row.
    Idle,
    /// Has decided to call, from the row of this version with this refresh token; the claim is not stored yet.
    Claims { seen: Seen, claimed: String },
    /// Has stored its claim; looks at the clock again.
    Holds { seen: Seen, claimed: String },
    /// Holds the lease and is calling.
    Calls { seen: Seen },
    /// Holds a lease that is too short, and puts the row back.
    Withdraws { seen: Seen },
    /// HubSpot has answered: with the new refresh token, not at all, or that the token is dead.
    Answered { seen: Seen, below: i64, answer: Answer },
    /// Has an access token, or knows that there is none.
    Done,
    /// Has crashed.
    Gone,
}

/// The row that a refresher called with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Seen {
    version: i64,
    token: u32,
    unanswered: Option<Ms>,
    facts: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Answer {
    Granted(u32),
    Lost,
    Dead,
}

/// The whole world. Facts are kept as JSON, since that is what is stored, and can be hashed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    /// Whether the clock is looked at again after the claim.
    checks: bool,
    facts: String,
    version: i64,
    /// The refresh token and the access token in the row, by number.
    token: u32,
    access: Option<u32>,
    /// The refresh token that HubSpot takes.
    current: u32,
    revoked: bool,
    now: Ms,
    crashes: u32,
    losses: u32,
    /// Whether an answer was ever lost, by a crash or on the way.
    lost: bool,
    refreshers: Vec<At>,
}

fn name(kind: char, n: u32) -> String {
    format!("{kind}{n}")
}

fn number(name: &str) -> u32 {
    name[1..].parse().expect("a number")
}

impl World {
    fn row(&self) -> Row {
        let secrets = Secrets { access_token: self.access.map(|n| name('a', n)), refresh_token: name('r', self.token) };
        let facts = serde_json::from_str(&self.facts).expect("facts");
        Row { portal: "4242".into(), token_version: self.version, facts, secrets }
    }

    /// The store's compare-and-set.
    fn swap(&mut self, seen: i64, row: &Row) -> bool {
        if self.version != seen {
            return false;
        }
        assert_eq!(row.token_version, seen + 1, "a row grows older by one change at a time");
        let token = number(&row.secrets.refresh_token);
        assert!(token >= self.token, "a newer refresh token is never overwritten by an older one: {self:?}");
        self.facts = serde_json::to_string(&row.facts).expect("JSON");
        (self.version, self.token) = (row.token_version, token);
        self.access = row.secrets.access_token.as_deref().map(number);
        true
    }

    /// HubSpot's token endpoint.
    fn refresh(&mut self, token: u32) -> Answer {
        if self.revoked {
            return Answer::Dead;
        }
        if token != self.current {
            // Only where the answer that replaced it never came to be stored, which nobody can know.
            assert!(self.lost, "a spent refresh token was sent again, and no answer was lost: {self:?}");
            self.revoked = true;
            return Answer::Dead;
        }
        self.current += 1;
        Answer::Granted(self.current)
    }

    /// Everything that a refresher may do next.
    fn next(&self, who: usize) -> Vec<World> {
        let go = |at: At| {
            let mut world = self.clone();
            world.refreshers[who] = at;
            world
        };
        let mut next = match &self.refreshers[who] {
            At::Done | At::Gone => return Vec::new(),
            At::Idle => {
                let row = self.row();
                let holder = name('p', who as u32);
                let caller = Caller {
                    holder: &holder,
                    credentials: "good",
                    now: self.now,
                    lease_for: LEASE,
                    spread: 0.0,
                    spent: false,
                    accepted: false,
                };
                match step(&row, &caller) {
                    Step::Use | Step::Refuse(_) => vec![go(At::Done)],
                    // It looks again; until something has changed, that is this state.
                    Step::Look(_) => Vec::new(),
                    Step::Call(facts) => {
                        let seen = Seen {
                            version: self.version,
                            token: self.token,
                            unanswered: row.facts.unanswered_since,
                            facts: self.facts.clone(),
                        };
                        vec![go(At::Claims { seen, claimed: serde_json::to_string(&facts).expect("JSON") })]
                    }
                    Step::Shut(_) => panic!("no access token was refused"),
                }
            }
            At::Claims { seen, claimed } => {
                let mut world = self.clone();
                let facts = serde_json::from_str(claimed).expect("facts");
                let row = Row { facts, token_version: seen.version + 1, ..self.row() };
                // The claim keeps the tokens of the row that was read; where the row is another, it is refused.
                let taken = world.swap(seen.version, &row);
                world.refreshers[who] = if taken { At::Holds { seen: seen.clone(), claimed: claimed.clone() } } else { At::Idle };
                vec![world]
            }
            At::Holds { seen, claimed } => {
                let facts: Facts = serde_json::from_str(claimed).expect("facts");
                let calls = !self.checks || call_within(&facts, self.now, LEASE).is_some();
                vec![go(if calls { At::Calls { seen: seen.clone() } } else { At::Withdraws { seen: seen.clone() } })]
            }
            At::Withdraws { seen } => {
                let mut world = self.clone();
                let facts = serde_json::from_str(&seen.facts).expect("facts");
                // Where the row has changed meanwhile, it stays as it is.
                world.swap(seen.version + 1, &Row { facts, token_version: seen.version + 2, ..self.row() });
                world.refreshers[who] = At::Idle;
                vec![world]
            }
            At::Calls { seen } => {
                let mut world = self.clone();
                let answer = world.refresh(seen.token);
                let below = seen.version + 1;
                let mut all = Vec::new();
                if self.losses > 0 {
                    let mut lost = world.clone();
                    lost.losses -= 1;
                    lost.lost = true;
                    lost.refreshers[who] = At::Answered { seen: seen.clone(), below, answer: Answer::Lost };
                    all.push(lost);
                }
                world.refreshers[who] = At::Answered { seen: seen.clone(), below, answer };
                all.push(world);
                all
            }
            At::Answered { seen, below, answer } => {
                let mut world = self.clone();
                let row = self.row();
                if row.token_version != *below {
                    // Somebody has changed the row meanwhile.
                    let same = self.token == seen.token;
                    world.refreshers[who] = match answer {
                        Answer::Granted(_) if same => At::Answered { seen: seen.clone(), below: self.version, answer: answer.clone() },
                        _ => At::Idle,
                    };
                } else {
                    let reply = match answer {
                        Answer::Granted(n) => Reply::Granted(super::super::endpoint::Grant {
                            access_token: name('a', *n),
                            refresh_token: Some(name('r', *n)),
                            lifetime: Duration::from_secs(LIFE),
                            scopes: vec![],
                            hub_id: None,
                        }),
                        Answer::Lost => Reply::Failed("no answer".into(), None),
                        Answer::Dead => Reply::Dead,
                    };
                    let called = Facts { unanswered_since: seen.unanswered, ..row.facts.clone() };
                    let mut after = settle(row, &called, reply, "good", self.now, 0.0);
                    after.token_version = below + 1;
                    assert!(world.swap(*below, &after), "nothing came in between");
                    world.refreshers[who] = At::Idle;
                }
                vec![world]
            }
        };
        if self.crashes > 0 {
            let mut world = go(At::Gone);
            world.crashes -= 1;
            // What HubSpot has answered, or may have, is gone with the process.
            world.lost |= matches!(self.refreshers[who], At::Answered { answer: Answer::Granted(_), .. });
            next.push(world);
        }
        next
    }

    /// The lease's holder is slow, or gone: time passes its end.
    fn later(&self) -> World {
        World { now: self.now + LEASE + 1, ..self.clone() }
    }
}

/// Visits every state that can be reached; gives back how many there are, and in how many all refreshers were through.
fn explore(refreshers: usize, crashes: u32, losses: u32, (checks, timely): (bool, bool)) -> (usize, usize) {
    let facts = Facts { expires_at: NOW, refreshed_at: NOW - 1_000 * LIFE, ..Facts::default() };
    let first = World {
        checks,
        facts: serde_json::to_string(&facts).expect("JSON"),
        version: 1,
        token: 0,
        access: Some(0),
        current: 0,
        revoked: false,
        now: NOW,
        crashes,
        losses,
        lost: false,
        refreshers: vec![At::Idle; refreshers],
    };
    let mut seen = HashSet::from([first.clone()]);
    let mut queue = VecDeque::from([first]);
    let mut ends = 0;
    while let Some(world) = queue.pop_front() {
        let mut next: Vec<World> = (0..refreshers).flat_map(|who| world.next(who)).collect();
        // A call is over before its lease is: the lease is longer than the call's time-out.
        let calling = world.refreshers.iter().any(|at| matches!(at, At::Calls { .. } | At::Answered { .. }));
        if world.now < NOW + 3 * LEASE && !(timely && calling) {
            next.push(world.later());
        }
        if world.refreshers.iter().all(|at| matches!(at, At::Done | At::Gone)) {
            ends += 1;
            let Row { facts, .. } = world.row();
            if !world.lost && !world.revoked {
                // What HubSpot takes is what is stored, or somebody is gone with it in hand.
                assert_eq!(world.token, world.current, "{world:?}");
                assert_eq!(facts.condition, Condition::Connected, "{world:?}");
            }
            if let Condition::ReinstallRequired(why) = facts.condition {
                assert!(world.lost, "a grant dies of a lost answer alone: {world:?}");
                assert!(matches!(why, Why::LostAnswer { .. }), "and is reported as what it is: {world:?}");
            }
        }
        for world in next {
            if seen.insert(world.clone()) {
                queue.push_back(world);
            }
        }
    }
    (seen.len(), ends)
}

/// Three refreshers with a crash and a lost answer take half a minute: with `CLICKLINE_LONG` in the environment alone.
#[test]
fn no_interleaving_sends_a_spent_token_again_or_overwrites_a_newer_row() {
    let long = std::env::var_os("CLICKLINE_LONG").map(|_| (3, 1, 1));
    for (refreshers, crashes, losses) in [(2, 2, 1), (3, 0, 0)].into_iter().chain(long) {
        let (states, ends) = explore(refreshers, crashes, losses, (true, true));
        assert!(states > 20 && ends > 0, "{refreshers} refreshers: {states} states, {ends} ends");
    }
}

/// The model would notice: without a second look at the clock a caller that has stalled before it holds its lease calls beside the next.
#[test]
#[should_panic(expected = "a spent refresh token was sent again")]
fn without_the_second_look_the_model_finds_the_reuse() {
    explore(2, 0, 0, (false, true));
}

/// … and so does one whose call outlives its lease.
#[test]
#[should_panic(expected = "a spent refresh token was sent again")]
fn without_the_calls_deadline_the_model_finds_the_reuse() {
    explore(2, 0, 0, (true, false));
}
