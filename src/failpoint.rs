//! Places at which a test may end the process, as a power cut would.
//!
//! `CLICKLINE_FAILPOINT=outbox.commit@7` kills the process (SIGKILL) when it comes to that place for the seventh time;
//! with `!panic` behind it the thread that comes there panics instead, with `!stop` the process stands still (SIGSTOP) until it is told to go on, and
//! with `!fail` what is tried there fails, where the code asks for that ([`fails`]). Several places are parted by commas: `outbox.commit@7!fail,outbox.aborted`.
//! Only builds with debug assertions look at the variable: a release build has no such places.

/// A place that a test may choose; does nothing otherwise.
#[inline]
pub fn hit(place: &str) {
    #[cfg(debug_assertions)]
    armed::hit(place);
    #[cfg(not(debug_assertions))]
    let _ = place;
}

/// Whether a test wants what is tried at this place to fail, this time.
#[inline]
pub fn fails(place: &str) -> bool {
    #[cfg(debug_assertions)]
    return armed::fails(place);
    #[cfg(not(debug_assertions))]
    {
        let _ = place;
        false
    }
}

/// By how many milliseconds a test has put this program's clock wrong: what stands in the file that `CLICKLINE_CLOCK_SHIFT` names, now. 0 in a
/// release build, and where there is no such file.
#[inline]
pub fn clock_shift() -> i64 {
    #[cfg(debug_assertions)]
    return armed::clock_shift();
    #[cfg(not(debug_assertions))]
    0
}

/// The job's places, in the order in which a run first comes to them; to `outbox.aborted` only when a transaction has failed, and to
/// `outbox.farewell` only when it is asked to stop. The connections have two more: `token.calling`, the lease was looked at
/// and the call is about to be made, and `token.answered`, HubSpot has given new tokens and they are not stored yet.
pub const PLACES: [&str; 13] = [
    "start.fenced",
    "start.progress",
    "start.state",
    "source.taken",
    "outbox.taken",
    "outbox.begun",
    "outbox.sent",
    "outbox.commit",
    "outbox.drained",
    "outbox.aborted",
    "outbox.committed",
    "outbox.told",
    "outbox.farewell",
];

#[cfg(debug_assertions)]
mod armed {
    use std::path::PathBuf;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[derive(PartialEq, Eq)]
    enum Does {
        Kill,
        Panic,
        Stop,
        Fail,
    }

    struct Armed {
        place: String,
        left: AtomicU64,
        does: Does,
    }

    static ARMED: LazyLock<Vec<Armed>> = LazyLock::new(|| {
        let wanted = std::env::var("CLICKLINE_FAILPOINT").unwrap_or_default();
        wanted.split(',').map(armed).collect()
    });

    fn armed(wanted: &str) -> Armed {
        let (wanted, does) = match wanted.split_once('!') {
            Some((wanted, "panic")) => (wanted, Does::Panic),
            Some((wanted, "stop")) => (wanted, Does::Stop),
            Some((wanted, "fail")) => (wanted, Does::Fail),
            _ => (wanted, Does::Kill),
        };
        let (place, left) = wanted.split_once('@').unwrap_or((wanted, "1"));
        Armed { place: place.to_owned(), left: AtomicU64::new(left.parse().unwrap_or(1)), does }
    }

    /// Whether the place is armed with something of that kind, and its time has come.
    fn due(place: &str, fail: bool) -> Option<&'static Does> {
        let armed = ARMED.iter().find(|armed| armed.place == place && (armed.does == Does::Fail) == fail)?;
        (armed.left.fetch_sub(1, Ordering::SeqCst) == 1).then_some(&armed.does)
    }

    pub fn fails(place: &str) -> bool {
        due(place, true).is_some()
    }

    static SHIFT: LazyLock<Option<PathBuf>> = LazyLock::new(|| std::env::var_os("CLICKLINE_CLOCK_SHIFT").map(PathBuf::from));

    pub fn clock_shift() -> i64 {
        SHIFT.as_ref().and_then(|file| std::fs::read_to_string(file).ok()).and_then(|shift| shift.trim().parse().ok()).unwrap_or(0)
    }

    pub fn hit(place: &str) {
        let signal = match due(place, false) {
            None | Some(Does::Fail) => return,
            Some(Does::Panic) => panic!("a test wanted it: {place}"),
            // Nothing of the process runs after this: no destructor, no flush, no farewell to the brokers.
            Some(Does::Kill) => signal_hook::consts::SIGKILL,
            Some(Does::Stop) => signal_hook::consts::SIGSTOP,
        };
        let _ = signal_hook::low_level::raise(signal);
    }
}
