//! Whatever happens in HubSpot, and wherever the mirror crashes: in the end it says what HubSpot does, and it said nothing twice.

use super::*;
use proptest::prelude::*;

/// Something that somebody does in HubSpot. Numbers name records in the order in which they were made, around and around.
#[derive(Clone, Debug)]
enum Deed {
    Contact,
    Address(usize),
    Deal(Vec<usize>),
    Stage(usize),
    Amount(usize, u32),
    Merge(usize, usize),
    DeleteContact(usize),
    Erase(usize),
    DeleteDeal(usize),
    Associate(usize, usize),
    Dissociate(usize, usize),
    /// Nothing, for so many milliseconds.
    Wait(u64),
}

fn deed() -> impl Strategy<Value = Deed> {
    let at = 0usize..8;
    prop_oneof![
        3 => Just(Deed::Contact),
        2 => at.clone().prop_map(Deed::Address),
        3 => prop::collection::vec(at.clone(), 0..3).prop_map(Deed::Deal),
        2 => at.clone().prop_map(Deed::Stage),
        1 => (at.clone(), 0u32..3).prop_map(|(at, amount)| Deed::Amount(at, amount)),
        2 => (at.clone(), at.clone()).prop_map(|(a, b)| Deed::Merge(a, b)),
        1 => at.clone().prop_map(Deed::DeleteContact),
        1 => at.clone().prop_map(Deed::Erase),
        1 => at.clone().prop_map(Deed::DeleteDeal),
        2 => (at.clone(), at.clone()).prop_map(|(a, b)| Deed::Associate(a, b)),
        1 => (at.clone(), at).prop_map(|(a, b)| Deed::Dissociate(a, b)),
        3 => (0u64..40).prop_map(Deed::Wait),
    ]
}

/// One that is there, if there is any.
fn pick(ids: &[String], at: usize) -> Option<&String> {
    if ids.is_empty() { None } else { ids.get(at % ids.len()) }
}

impl World {
    async fn happen(&self, deed: Deed) {
        let snapshot = self.sandbox.snapshot(PORTAL);
        let contacts: Vec<String> = snapshot.contacts.iter().map(|contact| contact.id.clone()).collect();
        let deals: Vec<String> = snapshot.deals.iter().map(|deal| deal.id.clone()).collect();
        let fresh = || format!("{}@example.com", uuid::Uuid::now_v7());
        let ended = |kind: &str, id: &String| (format!("/crm/v3/objects/{kind}/batch/archive"), json!({ "inputs": [{ "id": id }] }));
        let association = |contact: &String, deal: &String| json!({ "from": { "id": deal }, "to": { "id": contact } });
        let call = match deed {
            Deed::Contact => {
                self.sandbox.create_contact(PORTAL, None, &[("email", &fresh())]);
                None
            }
            Deed::Address(at) => {
                if let Some(id) = pick(&contacts, at) {
                    self.sandbox.edit_contact(PORTAL, id, &[("email", &fresh())]);
                }
                None
            }
            Deed::Deal(of) => {
                let mut of: Vec<&str> = of.into_iter().filter_map(|at| pick(&contacts, at)).map(String::as_str).collect();
                of.dedup();
                self.sandbox.create_deal(PORTAL, None, &[("dealname", "d"), ("dealstage", "appointmentscheduled")], &of);
                None
            }
            Deed::Stage(at) => {
                if let Some(id) = pick(&deals, at) {
                    let stage = ["qualifiedtobuy", "appointmentscheduled", "closedwon"][at % 3];
                    self.sandbox.edit_deal(PORTAL, id, &[("dealstage", stage)]);
                }
                None
            }
            Deed::Amount(at, amount) => {
                if let Some(id) = pick(&deals, at) {
                    let amount = if amount == 0 { String::new() } else { format!("{amount}000.5") };
                    self.sandbox.edit_deal(PORTAL, id, &[("amount", &amount)]);
                }
                None
            }
            Deed::Merge(primary, other) => {
                if let Some((primary, other)) = pick(&contacts, primary).zip(pick(&contacts, other))
                    && primary != other
                {
                    self.sandbox.merge_contacts(PORTAL, primary, other);
                }
                None
            }
            Deed::DeleteContact(at) => pick(&contacts, at).map(|id| ended("contacts", id)),
            Deed::DeleteDeal(at) => pick(&deals, at).map(|id| ended("deals", id)),
            Deed::Erase(at) => pick(&contacts, at).map(|id| ended("contacts", id)),
            Deed::Associate(contact, deal) => pick(&contacts, contact).zip(pick(&deals, deal)).map(|(contact, deal)| {
                (
                    "/crm/v4/associations/deals/contacts/batch/associate/default".to_owned(),
                    json!({ "inputs": [association(contact, deal)] }),
                )
            }),
            Deed::Dissociate(contact, deal) => pick(&contacts, contact).zip(pick(&deals, deal)).map(|(contact, deal)| {
                let input = json!({ "from": { "id": deal }, "to": [{ "id": contact }] });
                ("/crm/v4/associations/deals/contacts/batch/archive".to_owned(), json!({ "inputs": [input] }))
            }),
            Deed::Wait(ms) => {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                None
            }
        };
        if let Some((path, body)) = call {
            let outcome = self.post(&path, body).await;
            assert!(matches!(outcome, Outcome::Done(_)), "{path}: {outcome:?}");
        }
    }
}

/// Plays a history of which the first part happened before the mirror was started.
fn play(changes: Changes, before: usize, history: Vec<Deed>, crashes: Vec<u32>) {
    block_on(async {
        let world = World::new();
        let mut history = history.into_iter();
        for deed in history.by_ref().take(before) {
            world.happen(deed).await;
        }
        let running = tokio::task::spawn_local(mirror(world.crm(changes), crashes));
        for deed in history {
            world.happen(deed).await;
        }
        world.agrees().await;
        world.says_nothing_twice().await;
        assert!(!running.is_finished(), "the mirror broke down");
        running.abort();
    });
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20, ..ProptestConfig::with_cases(6) })]

    #[test]
    fn by_search(before in 0usize..12, history in prop::collection::vec(deed(), 0..40), crashes in prop::collection::vec(0u32..40, 0..6)) {
        play(Changes::Search, before, history, crashes);
    }
}
