//! Places at which a test may end the process, as `kill -9` would, and calls to the system that a test may let fail.
//!
//! `CLICKLINE_FAILPOINT=spool.synced@7` kills the process when it comes to that place for the seventh time; with a name of [`CALLS`] the seventh call
//! fails, and no other; with a name of [`PANICS`] the thread that comes there panics. Only builds with debug assertions look at the variable: a release build has no such places.

/// The places, in the order in which a click comes to them.
pub const PLACES: [&str; 6] =
    ["spool.written", "spool.synced", "forward.produced", "forward.offsets", "forward.committed", "forward.noted"];

/// Calls that a test may let fail: the fsync of the spool's segment.
pub const CALLS: [&str; 1] = ["disk.sync"];

/// Places where a thread may panic: the carrier with clicks in its hands, the forwarder before a transaction.
pub const PANICS: [&str; 2] = ["carrier.clicks", "forward.batch"];

/// A place at which a test may let the thread panic; does nothing otherwise.
#[inline]
pub(crate) fn panic(place: &str) {
    #[cfg(debug_assertions)]
    armed::panic(place);
    #[cfg(not(debug_assertions))]
    let _ = place;
}

/// The result of a call; an error of the disk where a test wants it.
#[inline]
pub(crate) fn call<T>(name: &str, call: impl FnOnce() -> std::io::Result<T>) -> std::io::Result<T> {
    #[cfg(debug_assertions)]
    if armed::fails(name) {
        return Err(std::io::Error::other("an error that a test asked for"));
    }
    #[cfg(not(debug_assertions))]
    let _ = name;
    call()
}

/// A place that a test may choose; does nothing otherwise.
#[inline]
pub(crate) fn hit(place: &str) {
    #[cfg(debug_assertions)]
    armed::hit(place);
    #[cfg(not(debug_assertions))]
    let _ = place;
}

/// By how many milliseconds a test has put this program's clock wrong: what stands in the file that `CLICKLINE_CLOCK_SHIFT` names, now. 0 in a
/// release build, and where there is no such file.
#[inline]
pub(crate) fn clock_shift() -> i64 {
    #[cfg(debug_assertions)]
    return armed::clock_shift();
    #[cfg(not(debug_assertions))]
    0
}

#[cfg(debug_assertions)]
mod armed {
    use std::path::PathBuf;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static ARMED: LazyLock<Option<(String, AtomicU64)>> = LazyLock::new(|| {
        let wanted = std::env::var("CLICKLINE_FAILPOINT").ok()?;
        let (place, left) = wanted.split_once('@').unwrap_or((&wanted, "1"));
        Some((place.to_owned(), AtomicU64::new(left.parse().unwrap_or(1))))
    });

    static SHIFT: LazyLock<Option<PathBuf>> = LazyLock::new(|| std::env::var_os("CLICKLINE_CLOCK_SHIFT").map(PathBuf::from));

    pub fn clock_shift() -> i64 {
        SHIFT.as_ref().and_then(|file| std::fs::read_to_string(file).ok()).and_then(|shift| shift.trim().parse().ok()).unwrap_or(0)
    }

    /// Whether this is the time that a test has chosen.
    fn now(name: &str) -> bool {
        ARMED.as_ref().is_some_and(|(armed, left)| armed == name && left.fetch_sub(1, Ordering::SeqCst) == 1)
    }

    pub fn fails(name: &str) -> bool {
        debug_assert!(super::CALLS.contains(&name), "{name} is in the list");
        now(name)
    }

    pub fn panic(place: &str) {
        debug_assert!(super::PANICS.contains(&place), "{place} is in the list");
        assert!(!now(place), "a test asked for it");
    }

    pub fn hit(place: &str) {
        debug_assert!(super::PLACES.contains(&place), "{place} is in the list");
        if now(place) {
            // Nothing of the process runs after this.
            let _ = signal_hook::low_level::raise(signal_hook::consts::SIGKILL);
        }
    }
}
