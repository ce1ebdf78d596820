//! Which of a visitor's parameters go on to a destination that has parameters of its own, and in whose place.
//!
//! # Meaning
//! - What the link's owner wrote into the destination stays. A page that is told by `?url=` or `?next=` where to go must not be told so by whoever
//!   passes the link on: behind a domain that is trusted, that would lead anywhere.
//! - A tracking parameter ([`tracking::known`]) says something of this click, and who sends a link out knows more about it than who made it: its values
//!   stand in the place of the destination's.
//! - Whatever the destination doesn't have goes on behind its own, in the order in which it was sent.
//!
//! # Ties and edges
//! Tracking parameters compare decoded and with case. Any other parameter of a visitor is left out where [`some reader`](letters) could take it for one of the
//! owner's: some frameworks know no case, and PHP reads `url[]`, `+url` and `url%00` as `url`, `my.url` and `my[url` as `my_url`, and keeps the last of them.
//! Of a repeated parameter all values go on, where the first of the destination's stands.
//!
//! # Cost
//! Each parameter is compared with all of the other side while these are few; beyond [`FEW`] they are found by hash, so that eight thousand parameters in
//! a request cost no more than eight thousand look-ups.

use crate::pairs::Pair;
use crate::tracking;
use smallvec::{SmallVec, smallvec};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

/// So many parameters on either side are compared one by one. Real links have some ten.
const FEW: usize = 32;

/// What goes on.
pub(crate) struct Passing<'s> {
    /// Parameters with their names, in the order they were sent.
    pairs: SmallVec<[(Cow<'s, str>, &'s Pair<'s>); 8]>,
    few: usize,
}

impl<'s> Passing<'s> {
    /// Of the parameters that were sent, those that go on to a destination with these of its `own`.
    pub(crate) fn of(own: &[Pair<'_>], sent: &'s [Pair<'s>]) -> Passing<'s> {
        Passing::with(own, sent, FEW)
    }

    fn with(own: &[Pair<'_>], sent: &'s [Pair<'s>], few: usize) -> Passing<'s> {
        // `eid` is nobody else's business.
        let named = sent.iter().map(|pair| (pair.name(), pair)).filter(|(name, _)| name != "eid");
        let pairs = if own.len().max(sent.len()) <= few {
            let is_own = |name: &str| own.iter().map(Pair::name).any(|own| same(&own, name));
            named.filter(|(name, _)| !is_own(name) || tracking::known(name)).collect()
        } else {
            let owns: HashSet<Vec<u8>> = own.iter().map(|own| letters(&own.name(), false).collect()).collect();
            let mut buffer = Vec::new();
            let mut is_own = |name: &str| {
                [false, true].into_iter().any(|open| {
                    buffer.clear();
                    buffer.extend(letters(name, open));
                    owns.contains(&buffer)
                })
            };
            named.filter(|(name, _)| !is_own(name) || tracking::known(name)).collect()
        };
        Passing { pairs, few }
    }

    /// Whether the destination stays as it is.
    pub(crate) fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Gives `put` the parameters of the `Location`, in their order.
    pub(crate) fn merge(&self, own: &[Pair<'_>], mut put: impl FnMut(&Pair<'_>)) {
        let mut placed: SmallVec<[bool; 8]> = smallvec![false; self.pairs.len()];
        if own.len().max(self.pairs.len()) <= self.few {
            for own in own {
                let name = own.name();
                let mut replaced = false;
                for ((_, pair), placed) in self.pairs.iter().zip(&mut placed).filter(|((other, _), _)| *other == name) {
                    replaced = true;
                    if !std::mem::replace(placed, true) {
                        put(pair);
                    }
                }
                if !replaced {
                    put(own);
                }
            }
        } else {
            let mut by_name: HashMap<&str, Vec<usize>> = HashMap::new();
            for (at, (name, _)) in self.pairs.iter().enumerate() {
                by_name.entry(name).or_default().push(at);
            }
            for own in own {
                match by_name.get_mut(&*own.name()) {
                    // Behind the first of this name nothing is left to put.
                    Some(all) => all.drain(..).for_each(|at| {
                        placed[at] = true;
                        put(self.pairs[at].1);
                    }),
                    None => put(own),
                }
            }
        }
        self.pairs.iter().zip(placed).filter(|(_, placed)| !placed).for_each(|((_, pair), _)| put(pair));
    }
}

/// Whether some reader could take what was sent under `name` for the owner's.
fn same(own: &str, name: &str) -> bool {
    // Nearly all names differ in a first letter that is the same to all readers.
    let plain = |name: &str| name.bytes().next().filter(|byte| byte.is_ascii_lowercase() || *byte >= 0x80);
    if let (Some(own), Some(name)) = (plain(own), plain(name))
        && own != name
    {
        return false;
    }
    let is = |open| letters(own, false).eq(letters(name, open));
    is(false) || is(true)
}

/// What is left of a name for the reader that makes the least of it. `open`: as PHP reads a bracket that is not closed, as one more letter.
fn letters(name: &str, open: bool) -> impl Iterator<Item = u8> {
    let name = name.trim_start_matches(' ').bytes().take_while(move |byte| *byte != 0 && (open || *byte != b'['));
    name.map(|byte| if matches!(byte, b'.' | b' ' | b'[') { b'_' } else { byte.to_ascii_lowercase() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pairs::pairs;
    use proptest::prelude::*;

    fn merged(own: &str, sent: &str, few: usize) -> Vec<String> {
        let (own, sent): (Vec<_>, Vec<_>) = (pairs(own).collect(), pairs(sent).collect());
        let mut out = Vec::new();
        Passing::with(&own, &sent, few).merge(&own, |pair| out.push(pair.raw.to_owned()));
        out
    }

    /// The parameters of owners stay, whatever a framework would take for them; look-alikes of nothing go on.
    #[test]
    fn the_owners_stay() {
        for name in ["url", "%75rl", "URL", "+url", "%20%20Url", "url[]", "url%5b0%5d", "url%00x", "u%72l[a][b]"] {
            assert_eq!(merged("url=ok&a=1", &format!("{name}=evil"), FEW), ["url=ok", "a=1"], "{name}");
        }
        for name in ["my.url", "my+url", "MY_url[]", "my[url", "my%5burl"] {
            assert_eq!(merged("my_url=ok", &format!("{name}=evil"), FEW), ["my_url=ok"], "{name}");
        }
        assert_eq!(merged("url=ok", "urls=1&xurl=2&url2=3", FEW), ["url=ok", "urls=1", "xurl=2", "url2=3"]);
        assert_eq!(
            merged("utm_source=site&gclid=1", "gclid=2&UTM_Source=x&utm_source=mail", FEW),
            ["utm_source=mail", "gclid=2", "UTM_Source=x"]
        );
    }

    #[test]
    fn thousands_take_no_longer_than_their_number() {
        let many = |name: &str, count: usize| (0..count).map(|at| format!("{name}{at}")).collect::<Vec<_>>().join("&");
        // Some 3 s when each is compared with each, in a build like this one.
        let (own, sent) = (many("utm_a", 2_000), many("utm_b", 8_000));
        assert_eq!(merged(&own, &sent, FEW).len(), 10_000);
        let (own, sent) = (["utm_x"; 2_000].join("&"), ["utm_x=1"; 8_000].join("&"));
        assert_eq!(merged(&own, &sent, FEW).len(), 8_000);
    }

    proptest! {
        /// A first letter that settles it settles it as all letters would.
        #[test]
        fn a_first_letter_says_nothing_else(own in "[ a-cA-C_.é\\[\u{0}]{0,4}", name in "[ a-cA-C_.é\\[\u{0}]{0,4}") {
            let whole = |open| letters(&own, false).eq(letters(&name, open));
            prop_assert_eq!(same(&own, &name), whole(false) || whole(true));
        }

        /// Found by hash or one by one: the same.
        #[test]
        fn many_go_the_way_of_few(
            own in prop::collection::vec("([a-cA]|utm_[ab]|%61|u\\+|u[.]|gclid|eid)(\\[\\])?=?[0-9]?", 0..60),
            sent in prop::collection::vec("([a-cA]|utm_[ab]|%61|u\\+|u[.]|gclid|eid|%ff|)(\\[\\])?=?[0-9]?", 0..60),
        ) {
            let (own, sent) = (own.join("&"), sent.join("&"));
            let few = merged(&own, &sent, usize::MAX);
            prop_assert_eq!(&merged(&own, &sent, 0), &few);
            prop_assert_eq!(&merged(&own, &sent, FEW), &few);
        }
    }
}
