//! Threads that give way to the event loops.

/// The lowest priority that the system has (nice).
pub(crate) const LOWEST: i32 = 19;
/// A third of an event loop's share of a processor that both want: enough for the clicks of as many visitors as it then serves.
pub(crate) const LOWER: i32 = 5;

/// Gives this thread, and those that it starts, a lower priority.
pub(crate) fn give_way(nice: i32) {
    // Linux takes a thread's id where POSIX has the process's.
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), nice) {
        tracing::info!(event = "priority_refused", %error, "the system does not let a thread have a lower priority; a reload or a backlog may be noticed where workers have no processor to spare");
    }
}
