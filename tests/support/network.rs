//! Machines beside this one, as far as the network goes: namespaces of the kernel on a bridge, which a test may unplug.
//!
//! # Meaning
//! A program that runs in one has an address of its own and reaches the others and this machine over the bridge. Unplugged, its packets
//! and those for it go nowhere, and nobody is told: neither end gets an error or a reset.
//!
//! # Ties and edges
//! Needs root and iproute2 (`apt install iproute2`), and a kernel or container that allows it. Where that is not so the test returns, and
//! `tests/zz_left_out.rs` names what was left out.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Machines on a bridge; they are gone when this is dropped.
pub struct Network {
    /// Before the names of everything here.
    name: String,
    /// The first three numbers of all addresses.
    subnet: String,
    machines: usize,
}

/// Runs `ip`; what it says when it refuses.
fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).output().map_err(|error| format!("ip does not start ({error})"))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}

/// Whether machines can be had.
///
/// # Errors
/// Why not.
pub fn possible() -> Result<(), String> {
    Network::lay(1).map(drop)
}

impl Network {
    /// So many machines, or `None` where they can't be had: then the test has nothing to run on and returns.
    pub fn lay_if_possible(machines: usize) -> Option<Network> {
        Network::lay(machines).map_err(|why| eprintln!("left out: no network namespaces here: {why}")).ok()
    }

    fn lay(machines: usize) -> Result<Network, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (process, n) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        // Names of interfaces have 15 letters at most.
        let name = format!("cl{}-{n}", process % 1_000_000);
        let network = Network { subnet: format!("10.213.{}", (process + 50 * n) % 250), name, machines };
        let Network { name, subnet, .. } = &network;
        ip(&format!("link add {name} type bridge"))?;
        ip(&format!("address add {subnet}.1/24 dev {name}"))?;
        ip(&format!("link set {name} up"))?;
        for machine in 0..machines {
            let (space, port) = (network.space(machine), network.port(machine));
            ip(&format!("netns add {space}"))?;
            ip(&format!("link add {port} type veth peer name eth0 netns {space}"))?;
            ip(&format!("link set {port} master {name} up"))?;
            ip(&format!("-n {space} address add {}/24 dev eth0", network.address(machine)))?;
            ip(&format!("-n {space} link set eth0 up"))?;
            ip(&format!("-n {space} link set lo up"))?;
        }
        Ok(network)
    }

    fn space(&self, machine: usize) -> String {
        format!("{}-{machine}", self.name)
    }

    fn port(&self, machine: usize) -> String {
        format!("{}p{machine}", self.name)
    }

    /// Where the machines reach this one.
    pub fn here(&self) -> String {
        format!("{}.1", self.subnet)
    }

    /// The address of a machine.
    pub fn address(&self, machine: usize) -> String {
        format!("{}.{}", self.subnet, machine + 2)
    }

    /// A program on a machine; its process is the program's.
    pub fn command(&self, machine: usize, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space(machine), program]);
        command
    }

    /// Pulls a machine's plug.
    pub fn unplug(&self, machine: usize) {
        ip(&format!("link set {} nomaster", self.port(machine))).expect("our own bridge");
    }

    /// Puts it in again.
    pub fn plug_in(&self, machine: usize) {
        ip(&format!("link set {} master {}", self.port(machine), self.name)).expect("our own bridge");
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // What was not made can't be removed; a port goes with its machine, which waits for its last process.
        for machine in 0..self.machines {
            let _ = ip(&format!("link del {}", self.port(machine)));
            let _ = ip(&format!("netns del {}", self.space(machine)));
        }
        let _ = ip(&format!("link del {}", self.name));
    }
}
