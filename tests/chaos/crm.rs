//! What people do in HubSpot meanwhile.

use crate::company::{CONTACTS, Company, DEALS, PORTALS};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// One thing, or nothing.
pub fn work(company: &mut Company, rng: &mut StdRng) {
    let portal = *PORTALS.choose(rng).expect("some");
    let deal = *DEALS.choose(rng).expect("some");
    let (contact, _) = *CONTACTS.choose(rng).expect("some");
    match rng.random_range(0..24) {
        // Moved back, forward, or to another pipeline by hand.
        0..4 => {
            let stage = *["a", "a", "b", "c"].choose(rng).expect("some");
            company.sandbox.edit_deal(portal, deal, &[("pipeline", "p"), ("dealstage", stage)]);
        }
        4 => company.sandbox.edit_deal(portal, deal, &[("pipeline", "q"), ("dealstage", "q1")]),
        5 => {
            let amount = *["99.99", "100", "5000", ""].choose(rng).expect("some");
            company.sandbox.edit_deal(portal, deal, &[("amount", amount)]);
        }
        6 => company.sandbox.associate(portal, contact, deal),
        7 => company.sandbox.dissociate(portal, contact, deal),
        8 => {
            let made = company.sandbox.create_contact(portal, None, &[("firstname", "Somebody")]);
            company.sandbox.associate(portal, &made, deal);
            company.made.push((portal.to_owned(), made));
        }
        9 => {
            // Somebody who was made on the way is merged into somebody who stays.
            if let Some((of, other)) = company.made.pop() {
                company.sandbox.merge_contacts(&of, contact, &other);
                company.gone.push((of, other));
            }
        }
        10 => {
            if let Some((of, other)) = company.made.pop() {
                if rng.random_bool(0.5) {
                    company.sandbox.archive_contact(&of, &other);
                } else {
                    company.sandbox.erase_contact(&of, &other);
                }
                company.gone.push((of, other));
            }
        }
        11 => company.expire_access_tokens(),
        _ => {}
    }
}
