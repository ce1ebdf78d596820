//! Whether every move of a deal by the app follows from a delta of its own. Pure.
//!
//! # Meaning
//! Each move is given a delta that nobody else has, if there is such a way to give them out. A delta fits a move
//!
//! - that goes where it asks, from the stage that it names. HubSpot has no conditional write, so between the sink's look and its write a person
//!   may move the deal, and the history shows the write from where the person moved it to (`deal_move_overwrote`): the stage named may be one
//!   that persons alone have left within [`ROUND_TRIP_MS`] before the move. What the app itself left counts no more: it looks again before each write;
//! - unless it is a shadow, and unless its outcome says that nothing was written. `delivered` says that there was a write. Who was erased while
//!   a request was under way may have been written of. A drop may hide a write whose answer was lost: the next look finds the deal where it was moved
//!   to, or where a person moved it since, and if that is back, guards that hold no longer. So one that came when answers may have been lost.
//!
//! A move whose answer may have been lost may come once more for the same delta, soon: a person has moved the deal back before the sink looked again,
//! and the sink takes it for not done. Otherwise no delta moves a deal twice.

use clickline::model::time::Ms;
use std::collections::BTreeSet;

/// How long the sink's look at a deal may lie before its write; its process may stand still for 3 s between them.
const ROUND_TRIP_MS: Ms = 3_500;
/// How long after a write whose answer was lost the sink may look again.
const AGAIN_MS: Ms = 60_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    App,
    Person,
}

/// A deal went from one stage to another.
#[derive(Clone, Copy, Debug)]
pub struct Move<'a> {
    pub at: Ms,
    pub from: &'a str,
    pub to: &'a str,
    pub by: By,
}

/// A delta, and what the ledger says of it. One for each id: what is told again is settled already.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub id: &'a str,
    pub from: &'a str,
    pub to: &'a str,
    pub shadow: bool,
    pub outcome: Option<&'a str>,
}

/// Of a deal's moves, in their order, the app's against the deltas for it. `unsure` is when an answer may not have come to the ledger. What is
/// wrong, where something is.
pub fn follow(moves: &[Move<'_>], asked: &[Asked<'_>], unsure: &[(Ms, Ms)]) -> Result<(), String> {
    let ids: BTreeSet<&str> = asked.iter().map(|asked| asked.id).collect();
    assert_eq!(ids.len(), asked.len(), "each id once: {asked:#?}");
    let ours: Vec<usize> = (0..moves.len()).filter(|n| moves[*n].by == By::App).collect();
    let lost = |n: usize| unsure.iter().any(|(from, until)| (*from..=*until).contains(&moves[n].at));
    let deltas = |n: usize| (0..asked.len()).filter(move |of| fits(moves, n, &asked[*of], lost(n))).collect::<Vec<_>>();
    let mut places: Vec<Vec<usize>> = ours.iter().map(|n| deltas(*n)).collect();
    // Behind the deltas' places are those for a second move, one for each move whose answer may have been lost.
    for later in 1..ours.len() {
        for earlier in 0..later {
            let soon = moves[ours[later]].at - moves[ours[earlier]].at < AGAIN_MS;
            let same = places[earlier].iter().any(|of| *of < asked.len() && places[later].contains(of));
            if lost(ours[earlier]) && soon && same {
                places[later].push(asked.len() + earlier);
            }
        }
    }
    let mut taken = vec![None; asked.len() + ours.len()];
    for (at, n) in ours.iter().enumerate() {
        if !place(at, &places, &mut vec![false; taken.len()], &mut taken) {
            let Move { at, from, to, .. } = moves[*n];
            return Err(format!(
                "moved from {from} to {to} at {at}, and no delta is left that asks for it: {moves:#?} {asked:#?} {unsure:?}"
            ));
        }
    }
    let delivered = asked.iter().filter(|asked| asked.outcome == Some("delivered")).count();
    if delivered > ours.len() {
        return Err(format!("{delivered} deltas count as delivered, moved {} times: {moves:#?} {asked:#?}", ours.len()));
    }
    Ok(())
}

/// Whether the move with this number may be the delta's; `lost`: its answer may have been lost.
fn fits(moves: &[Move<'_>], n: usize, asked: &Asked<'_>, lost: bool) -> bool {
    let this = &moves[n];
    let beside = |before: &&Move<'_>| before.by == By::Person && this.at - before.at < ROUND_TRIP_MS;
    let seen = asked.from == this.from || moves[..n].iter().rev().take_while(beside).any(|before| before.from == asked.from);
    let back = || moves[n + 1..].iter().any(|later| later.by == By::Person && later.to == asked.from);
    let written = match asked.outcome {
        Some("delivered" | "erased") => true,
        Some("dropped: already-there" | "dropped: other-stage" | "dropped: other-pipeline" | "dropped: overruled") => lost,
        Some("dropped: amount" | "dropped: not-associated") => lost && back(),
        _ => false,
    };
    !asked.shadow && asked.to == this.to && seen && written
}

/// Finds a place for a move among its own, where those who have them may go to others of theirs.
fn place(at: usize, places: &[Vec<usize>], tried: &mut [bool], taken: &mut [Option<usize>]) -> bool {
    for &place_of in &places[at] {
        if std::mem::replace(&mut tried[place_of], true) {
            continue;
        }
        let free = match taken[place_of] {
            None => true,
            Some(other) => place(other, places, tried, taken),
        };
        if free {
            taken[place_of] = Some(at);
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::{Asked, By, Move, follow};

    fn app(at: u64, from: &'static str, to: &'static str) -> Move<'static> {
        Move { at, from, to, by: By::App }
    }

    fn person(at: u64, from: &'static str, to: &'static str) -> Move<'static> {
        Move { at, from, to, by: By::Person }
    }

    fn asked(id: &'static str, from: &'static str, to: &'static str, outcome: &'static str) -> Asked<'static> {
        Asked { id, from, to, shadow: outcome == "shadow", outcome: Some(outcome) }
    }

    #[track_caller]
    fn wrong(moves: &[Move<'_>], asked: &[Asked<'_>]) {
        assert!(follow(moves, asked, &[]).is_err());
    }

    #[track_caller]
    fn right(moves: &[Move<'_>], asked: &[Asked<'_>]) {
        assert_eq!(follow(moves, asked, &[]), Ok(()));
    }

    #[test]
    fn each_move_has_a_delta_of_its_own() {
        right(&[app(0, "a", "b"), app(10, "b", "c")], &[asked("1", "a", "b", "delivered"), asked("2", "b", "c", "delivered")]);
        let twice = [app(0, "a", "b"), person(20_000, "b", "a"), app(40_000, "a", "b")];
        right(&twice, &[asked("1", "a", "b", "delivered"), asked("2", "a", "b", "delivered")]);
        wrong(&twice, &[asked("1", "a", "b", "delivered")]);
        wrong(&[app(0, "a", "b")], &[]);
        wrong(&[app(0, "a", "b")], &[asked("1", "a", "c", "delivered")]);
        wrong(&[app(0, "c", "b")], &[asked("1", "a", "b", "delivered")]);
        wrong(&[], &[asked("1", "a", "b", "delivered")]);
    }

    #[test]
    fn a_persons_move_excuses_no_second_one() {
        let back = [app(0, "a", "b"), person(1_000, "b", "a"), app(1_100, "a", "b")];
        wrong(&back, &[asked("1", "a", "b", "delivered")]);
        let ids = [asked("1", "a", "b", "delivered"), asked("2", "a", "b", "shadow"), asked("3", "a", "b", "dropped: amount")];
        wrong(&back, &ids);
        let overwritten = [person(0, "a", "c"), app(10, "c", "b"), person(20, "b", "c"), app(30, "c", "b")];
        wrong(&overwritten, &[asked("1", "a", "b", "delivered")]);
        wrong(&[person(0, "b", "a"), app(10, "a", "b")], &[]);
    }

    #[test]
    fn a_shadow_moves_nothing() {
        wrong(&[app(0, "a", "b")], &[asked("1", "a", "b", "shadow")]);
        wrong(&[person(0, "b", "a"), app(10, "a", "b")], &[asked("1", "a", "b", "shadow")]);
    }

    #[test]
    fn what_was_dropped_has_moved_nothing_unless_an_answer_was_lost() {
        let moved = [app(1_000, "a", "b"), person(5_000, "b", "c")];
        for outcome in ["dropped: amount", "dropped: closed", "dropped: already-there", "dropped: other-stage", "dead: validation"] {
            wrong(&moved, &[asked("1", "a", "b", outcome)]);
        }
        let unsure = |outcome: &'static str| follow(&moved, &[asked("1", "a", "b", outcome)], &[(0, 2_000)]).is_ok();
        assert!(unsure("dropped: already-there") && unsure("dropped: other-stage"));
        assert!(!unsure("dropped: amount"), "nobody has moved it back to where guards are asked");
        assert!(!unsure("dropped: closed") && !unsure("dead: validation") && !unsure("shadow"));
        let open = Asked { outcome: None, ..asked("1", "a", "b", "") };
        assert!(follow(&moved, &[open], &[(0, 2_000)]).is_err());
    }

    #[test]
    fn a_person_may_be_overwritten_between_look_and_write() {
        right(&[person(0, "a", "c"), app(3_000, "c", "b")], &[asked("1", "a", "b", "delivered")]);
        right(&[person(0, "a", "c"), person(1_000, "c", "q1"), app(3_000, "q1", "b")], &[asked("1", "a", "b", "delivered")]);
        wrong(&[person(0, "a", "c"), app(4_000, "c", "b")], &[asked("1", "a", "b", "delivered")]);
        // Where the app left it, it does not find it again.
        let left = [app(0, "a", "c"), person(10, "c", "q1"), app(20, "q1", "b")];
        wrong(&left, &[asked("1", "a", "c", "delivered"), asked("2", "a", "b", "delivered")]);
    }

    #[test]
    fn a_person_may_move_a_deal_right_after_the_app() {
        right(&[app(0, "a", "b"), person(10, "b", "a")], &[asked("1", "a", "b", "delivered")]);
        let again = [app(0, "a", "b"), person(10, "b", "c"), app(20, "c", "d")];
        right(&again, &[asked("1", "a", "b", "delivered"), asked("2", "b", "d", "delivered")]);
    }

    #[test]
    fn deltas_are_given_out_so_that_all_moves_have_one() {
        // The first move fits both; the second one fits the first delta alone.
        let moves = [person(0, "a", "c"), app(10, "c", "b"), person(9_000, "b", "c"), app(20_000, "c", "b")];
        right(&moves, &[asked("1", "c", "b", "delivered"), asked("2", "a", "b", "delivered")]);
    }

    #[test]
    fn a_write_whose_answer_was_lost_may_come_once_more_when_a_person_has_moved_the_deal_back() {
        let moves = [app(1_000, "a", "b"), person(2_000, "b", "a"), app(3_000, "a", "b"), person(4_000, "b", "a"), app(5_000, "a", "b")];
        let one = [asked("1", "a", "b", "delivered")];
        assert_eq!(follow(&moves[..3], &one, &[(900, 1_100)]), Ok(()));
        assert!(follow(&moves[..3], &one, &[(2_900, 3_100)]).is_err(), "the first answer came");
        assert!(follow(&moves, &one, &[(900, 1_100)]).is_err(), "once");
        assert!(follow(&[moves[0], moves[1], app(90_000, "a", "b")], &one, &[(900, 1_100)]).is_err(), "soon");
    }
}
