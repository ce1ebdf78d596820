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
    /// The one that was deleted last comes back.
    Restore,
    Erase(usize),
    DeleteDeal(usize),
    Associate(usize, usize),
    Dissociate(usize, usize),
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
        1 => Just(Deed::Restore),
        1 => at.clone().prop_map(Deed::Erase),
        1 => at.clone().prop_map(Deed::DeleteDeal),
        2 => (at.clone(), at.clone()).prop_map(|(a, b)| Deed::Associate(a, b)),
        1 => (at.clone(), at).prop_map(|(a, b)| Deed::Dissociate(a, b)),
    ]
}

/// One that is there, if there is any.
fn pick(ids: &[String], at: usize) -> Option<&String> {
    if ids.is_empty() { None } else { ids.get(at % ids.len()) }
}

impl World {
    fn happen(&self, deed: Deed, archived: &mut Vec<String>) {
        let snapshot = self.sandbox.snapshot(PORTAL);
        let contacts: Vec<String> = snapshot.contacts.iter().map(|contact| contact.id.clone()).collect();
        let deals: Vec<String> = snapshot.deals.iter().map(|deal| deal.id.clone()).collect();
        let fresh = || format!("{}@example.com", uuid::Uuid::now_v7());
        match deed {
            Deed::Contact => {
                self.sandbox.create_contact(PORTAL, None, &[("email", &fresh())]);
            }
            Deed::Address(at) => {
                if let Some(id) = pick(&contacts, at) {
                    self.sandbox.edit_contact(PORTAL, id, &[("email", &fresh())]);
                }
            }
            Deed::Deal(of) => {
                let mut of: Vec<&str> = of.into_iter().filter_map(|at| pick(&contacts, at)).map(String::as_str).collect();
                of.dedup();
                self.sandbox.create_deal(PORTAL, None, &[("dealname", "d"), ("dealstage", "appointmentscheduled")], &of);
            }
            Deed::Stage(at) => {
                if let Some(id) = pick(&deals, at) {
                    let stage = ["qualifiedtobuy", "appointmentscheduled", "closedwon"][at % 3];
                    self.sandbox.edit_deal(PORTAL, id, &[("dealstage", stage)]);
                }
            }
            Deed::Amount(at, amount) => {
                if let Some(id) = pick(&deals, at) {
                    let amount = if amount == 0 { String::new() } else { format!("{amount}000.5") };
                    self.sandbox.edit_deal(PORTAL, id, &[("amount", &amount)]);
                }
            }
            Deed::Merge(primary, other) => {
                if let Some((primary, other)) = pick(&contacts, primary).zip(pick(&contacts, other))
                    && primary != other
                {
                    self.sandbox.merge_contacts(PORTAL, primary, other);
                }
            }
            Deed::DeleteContact(at) => {
                if let Some(id) = pick(&contacts, at) {
                    self.sandbox.archive_contact(PORTAL, id);
                    archived.push(id.clone());
                }
            }
            Deed::Restore => {
                if let Some(id) = archived.pop() {
                    self.sandbox.restore_contact(PORTAL, &id);
                }
            }
            Deed::DeleteDeal(at) => {
                if let Some(id) = pick(&deals, at) {
                    self.sandbox.archive_deal(PORTAL, id);
                }
            }
            Deed::Erase(at) => {
                if let Some(id) = pick(&contacts, at) {
                    self.sandbox.erase_contact(PORTAL, id);
                }
            }
            Deed::Associate(contact, deal) => {
                if let Some((contact, deal)) = pick(&contacts, contact).zip(pick(&deals, deal)) {
                    self.sandbox.associate(PORTAL, contact, deal);
                }
            }
            Deed::Dissociate(contact, deal) => {
                if let Some((contact, deal)) = pick(&contacts, contact).zip(pick(&deals, deal)) {
                    self.sandbox.dissociate(PORTAL, contact, deal);
                }
            }
        }
    }
}

/// Plays a history of which the first part happened before the mirror was started.
fn play(changes: Changes, (before, followed, history, crashes): History) {
    block_on(async {
        let world = World::new();
        let crm = world.crm(changes);
        let _server = (changes == Changes::Webhooks).then(|| world.webhooks(&crm));
        let (mut history, mut archived) = (history.into_iter(), Vec::new());
        for (deed, _) in history.by_ref().take(before) {
            world.happen(deed, &mut archived);
        }
        let running = tokio::task::spawn_local(mirror(crm, crashes));
        // Half of them are still loading when the rest happens; the others follow.
        if followed {
            world.agrees().await;
        }
        for (deed, wait) in history {
            world.happen(deed, &mut archived);
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
        world.agrees().await;
        world.says_nothing_twice().await;
        assert!(!running.is_finished(), "the mirror broke down");
        running.abort();
    });
}

/// A history: what was before the mirror was started, what came then, and where it crashed: a page or an event takes it past five
/// places, so that most crashes are within or between changes and not in the load alone.
type History = (usize, bool, Vec<(Deed, u64)>, Vec<u32>);

fn history() -> impl Strategy<Value = History> {
    // A start takes the mirror some 200 ms: what happens is spread over several of them.
    (0usize..12, any::<bool>(), prop::collection::vec((deed(), 0u64..80), 10..40), prop::collection::vec(0u32..16, 0..14))
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 3, failure_persistence: None, ..ProptestConfig::with_cases(4) })]

    #[test]
    fn by_search(history in history()) {
        play(Changes::Search, history);
    }

    #[test]
    fn by_webhooks(history in history()) {
        play(Changes::Webhooks, history);
    }

    #[test]
    fn by_journal(history in history()) {
        play(Changes::Journal, history);
    }
}
