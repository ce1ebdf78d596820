//! Programs that a test starts, and waiting for what they do.

use std::process::{Child, Command};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long a program may take to answer, stop, or do what it was asked to.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Starts the command from a thread that lives as long as this process.
///
/// The kernel's "die with your parent" looks at the thread that started the child, and a test's thread ends with its test.
pub fn bound_to_this_process(mut command: Command) -> Child {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = send.send(command.spawn());
        loop {
            std::thread::park();
        }
    });
    receive
        .recv()
        .expect("the thread answers")
        .expect("setpriv and the program start (apt install util-linux openjdk-17-jre-headless postgresql)")
}

/// Asks until there is an answer; fails after [`PATIENCE`].
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(started.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
