//! Processes as threads that meet over loopback.

use super::*;
use crate::cluster::testing::{free_addresses, hosts, terms};
use std::thread;

/// What a start may be about.
type Facts = (u64, String);

fn facts() -> Facts {
    (7, "seven".to_owned())
}

/// Meets the others and tells or hears; the connections stay for as long as the answer.
fn take_part(hosts: &Hosts, terms: &Terms, stop: &Stop) -> anyhow::Result<(Met, Facts)> {
    let mut met = meet(hosts, terms, stop)?;
    if hosts.leads() {
        met.tell(&facts())?;
        return Ok((met, facts()));
    }
    let heard = met.hear(stop)?;
    Ok((met, heard))
}

/// All have met and heard the same.
fn assert_met<const N: usize>(all: [thread::ScopedJoinHandle<'_, anyhow::Result<(Met, Facts)>>; N]) {
    for (_met, heard) in all.map(|one| one.join().expect("no panic").expect("meets")) {
        assert_eq!(heard, facts());
    }
}

#[test]
fn all_meet_in_any_order_and_hear_the_same_though_strangers_call() {
    let addresses = free_addresses::<3>();
    thread::scope(|scope| {
        assert_met([2, 0, 1].map(|process| {
            let mine = hosts(&addresses, process);
            let one = scope.spawn(move || take_part(&mine, &terms(2), &Stop::new()));
            if process == 0 {
                // Nobody else listens yet: process 0 has to deal with these first.
                let call = || loop {
                    if let Ok(stream) = TcpStream::connect(&addresses[0]) {
                        break stream;
                    }
                    thread::sleep(LOOK);
                };
                call().write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("says something");
                drop(call());
            }
            one
        }));
    });
}

#[test]
fn who_would_compute_something_else_is_named_in_each_process() {
    let addresses = free_addresses::<3>();
    let said = thread::scope(|scope| {
        let one = |process: usize| {
            let mine = hosts(&addresses, process);
            scope.spawn(move || take_part(&mine, &terms(if process == 2 { 4 } else { 2 }), &Stop::new()))
        };
        // Process 0 by hand, so that the first one is known there before the second one comes.
        let listener = listen(&addresses[0]).expect("free");
        let mut zero = Met { hosts: hosts(&addresses, 0), peers: vec![None, None, None], told: None };
        let next = |zero: &mut Met| loop {
            match accept(&listener).expect("listens") {
                Some(stream) => break zero.receive(stream, &terms(2), &Stop::new()),
                None => thread::sleep(LOOK),
            }
        };
        let first = one(1);
        next(&mut zero).expect("fits");
        assert!(zero.peers[1].is_some());
        let second = one(2);
        let refused = next(&mut zero).expect_err("they differ");
        drop(zero);
        [Err(refused), first.join().expect("no panic"), second.join().expect("no panic")].map(|ended| {
            let error = ended.expect_err("they differ");
            assert!(error.is::<Misfit>(), "{error:#}");
            error.to_string()
        })
    });
    let named = format!("process 2 at {} does not have the configuration of process 0 at {}", addresses[2], addresses[0]);
    for said in &said {
        assert!(said.contains(&named), "{said}");
    }
    assert!(said[0].contains("workers (2 and 4)") && said[2].contains("workers (4 and 2)"), "{said:?}");
}

#[test]
fn who_waits_ends_when_asked() {
    let addresses = free_addresses::<2>();
    for process in [0, 1] {
        let (mine, stop) = (hosts(&addresses, process), Stop::new());
        thread::scope(|scope| {
            let waiting = scope.spawn(|| meet(&mine, &terms(1), &stop));
            thread::sleep(3 * LOOK);
            assert!(!waiting.is_finished());
            stop.ask();
            assert!(waiting.join().expect("no panic").is_err());
        });
    }
}

#[test]
fn who_has_gone_before_all_were_there_may_come_again() {
    let addresses = free_addresses::<3>();
    thread::scope(|scope| {
        let zero = hosts(&addresses, 0);
        let zero = scope.spawn(move || take_part(&zero, &terms(1), &Stop::new()));
        let (stop, early) = (Stop::new(), hosts(&addresses, 1));
        let of_early = stop.clone();
        let early = scope.spawn(move || take_part(&early, &terms(1), &of_early));
        thread::sleep(4 * LOOK);
        stop.ask();
        assert!(early.join().expect("no panic").is_err(), "asked to stop");
        let [two, one] = [2, 1].map(|process| {
            let mine = hosts(&addresses, process);
            scope.spawn(move || take_part(&mine, &terms(1), &Stop::new()))
        });
        assert_met([zero, one, two]);
    });
}

#[test]
fn who_waits_for_the_start_learns_that_process_0_has_ended() {
    let addresses = free_addresses::<2>();
    let [zero, mut first] = thread::scope(|scope| {
        [0, 1]
            .map(|process| {
                let mine = hosts(&addresses, process);
                scope.spawn(move || meet(&mine, &terms(1), &Stop::new()))
            })
            .map(|one| one.join().expect("no panic").expect("meets"))
    });
    drop(zero);
    let error = first.hear::<Facts>(&Stop::new()).expect_err("nobody speaks");
    assert!(error.is::<Lost>() && error.to_string().contains(&format!("process 0 at {}", addresses[0])), "{error:#}");
}

#[test]
fn an_address_of_another_machine_is_a_mistake_and_a_port_in_use_is_said() {
    // A documentation address: no machine has it.
    let elsewhere = ["192.0.2.1:2101".to_owned(), "192.0.2.1:2102".to_owned()];
    let error = meet(&hosts(&elsewhere, 0), &terms(1), &Stop::new()).expect_err("not ours");
    assert!(error.is::<Misfit>() && error.to_string().contains("--process"), "{error:#}");
    let addresses = free_addresses::<2>();
    let _other = TcpListener::bind(&addresses[0]).expect("free");
    let error = meet(&hosts(&addresses, 0), &terms(1), &Stop::new()).expect_err("in use");
    assert!(!error.is::<Misfit>() && error.to_string().contains("still run"), "{error:#}");
}
