//! A week at Acme: who clicks what and when, and what a person with pen and paper says must come of it.
//!
//! Pure: the week is a list of actions in the order of their time, the expectations are written by hand beside it.

use crate::model::time::{DAY, HOUR, Ms};

/// The portal of the demonstration.
pub const PORTAL: &str = "4242";
/// Its workspace.
pub const WORKSPACE: &str = "acme";
/// The domain of its links.
pub const DOMAIN: &str = "s.elido.me";

/// The rules. The first one is the article's, as it stands there.
pub const RULES: &str = r#"
- trigger:
    link_tag: "sales-collateral"   # all links tagged this way count
    contact_window: 30d            # rolling
    click_threshold: 50
  action:
    type: advance_deal_stage
    pipeline: "default"
    from_stage: "appointmentscheduled"
    to_stage: "qualifiedtobuy"
    guard:
      require_associated_contact: true
      deal_amount_min: 5000        # only deals worth advancing
- name: pricing page three times in a week
  trigger: {link: "s.elido.me/pricing", contact_window: 7d, click_threshold: 3}
  action: {type: advance_deal_stage, pipeline: default, from_stage: qualifiedtobuy, to_stage: presentationscheduled}
"#;

/// A short link: slug, title, destination, tags.
pub const LINKS: [(&str, &str, &str, &[&str]); 4] = [
    ("abc123", "Q2 pricing PDF", "https://acme.example/pricing.pdf", &["sales-collateral"]),
    ("case", "Case study: Navy", "https://acme.example/case-study?utm_source=site&utm_medium=web", &["sales-collateral"]),
    ("pricing", "Pricing page", "https://acme.example/pricing#plans", &["pricing"]),
    ("webinar", "Webinar recording", "https://acme.example/webinar", &["webinars"]),
];

/// A contact of the CRM and what must be on it when the week is over.
pub struct Contact {
    /// HubSpot's id.
    pub id: &'static str,
    /// First and last name.
    pub name: (&'static str, &'static str),
    /// Primary e-mail.
    pub email: &'static str,
    /// Timeline events.
    pub events: usize,
    /// Last source, campaign, medium.
    pub utm: [Option<&'static str>; 3],
}

/// All contacts.
pub const CONTACTS: [Contact; 6] = [
    Contact {
        id: "801",
        name: ("Ada", "Lovelace"),
        email: "ada@example.com",
        events: 2,
        utm: [Some("webinar"), Some("q2-pricing"), Some("email")],
    },
    Contact {
        id: "802",
        name: ("Grace", "Hopper"),
        email: "grace@example.com",
        events: 56,
        utm: [Some("newsletter"), Some("fleet"), Some("email")],
    },
    Contact {
        id: "803",
        name: ("Katherine", "Johnson"),
        email: "katherine@example.com",
        events: 3,
        utm: [Some("google"), Some("brand"), Some("cpc")],
    },
    Contact {
        id: "804",
        name: ("Mary", "Jackson"),
        email: "mary@example.com",
        events: 3,
        utm: [Some("facebook"), Some("launch"), Some("paid-social")],
    },
    Contact { id: "805", name: ("Annie", "Easley"), email: "annie@example.com", events: 3, utm: [None, None, None] },
    Contact { id: "806", name: ("Dorothy", "Vaughan"), email: "dorothy@example.com", events: 0, utm: [None, None, None] },
];

/// A contact id that HubSpot has merged into 805.
pub const MERGED: (&str, &str) = ("77", "805");

/// A deal and where it must be when the week is over.
pub struct Deal {
    /// HubSpot's id.
    pub id: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Where it stands on Monday.
    pub stage: &'static str,
    /// In dollars.
    pub amount: Option<f64>,
    /// Its contact.
    pub contact: &'static str,
    /// Where it must stand on Sunday.
    pub ends: &'static str,
    /// Why.
    pub why: &'static str,
}

/// All deals.
pub const DEALS: [Deal; 8] = [
    Deal {
        id: "9001",
        name: "Analytical engine",
        stage: "appointmentscheduled",
        amount: Some(12_000.0),
        contact: "801",
        ends: "appointmentscheduled",
        why: "two clicks are not fifty",
    },
    Deal {
        id: "9002",
        name: "Fleet licence",
        stage: "appointmentscheduled",
        amount: Some(24_000.0),
        contact: "802",
        ends: "qualifiedtobuy",
        why: "56 clicks on sales collateral",
    },
    Deal {
        id: "9003",
        name: "Pilot",
        stage: "appointmentscheduled",
        amount: Some(3_000.0),
        contact: "802",
        ends: "appointmentscheduled",
        why: "worth less than the guard asks for",
    },
    Deal {
        id: "9004",
        name: "Trajectory service",
        stage: "qualifiedtobuy",
        amount: None,
        contact: "803",
        ends: "presentationscheduled",
        why: "three ad clicks, form before them",
    },
    Deal {
        id: "9005",
        name: "Wind tunnel",
        stage: "qualifiedtobuy",
        amount: Some(9_000.0),
        contact: "804",
        ends: "presentationscheduled",
        why: "three ad clicks, held until her form",
    },
    Deal {
        id: "9006",
        name: "Centaur upper stage",
        stage: "qualifiedtobuy",
        amount: Some(50_000.0),
        contact: "805",
        ends: "presentationscheduled",
        why: "clicks of two merged contacts add up",
    },
    Deal {
        id: "9007",
        name: "Compiler support",
        stage: "appointmentscheduled",
        amount: Some(7_000.0),
        contact: "802",
        ends: "appointmentscheduled",
        why: "moved, and moved back by hand: it stays",
    },
    Deal {
        id: "9008",
        name: YOURS.2,
        stage: "qualifiedtobuy",
        amount: Some(18_000.0),
        contact: YOURS.0,
        ends: "qualifiedtobuy",
        why: "nobody has clicked",
    },
];

/// What `--keep` leaves to move: a contact, the query's end of a link, a deal, and the clicks that move it.
pub const YOURS: (&str, &str, &str, u64) = ("806", "pricing?eid=806", "Fortran course", 3);

/// The deal that a salesperson moves back.
pub const MOVED_BACK: &str = "9007";
/// Clicks that find nobody within 72 hours.
pub const UNRESOLVED: usize = 2;

/// What a visitor sends.
pub struct Visit {
    /// Slug and query of the request.
    pub target: String,
    /// `GET` or `HEAD`.
    pub head: bool,
    /// The browser's own words.
    pub user_agent: &'static str,
    /// What the server must answer.
    pub status: u16,
}

/// Something that happens.
pub enum Action {
    /// Somebody (or something) requests a short link.
    Visit(Visit),
    /// Somebody fills in a form.
    Form {
        /// Unique.
        id: &'static str,
        /// As typed.
        email: &'static str,
        /// The page's click ids.
        gclid: Option<&'static str>,
        /// The page's click ids.
        fbclid: Option<&'static str>,
    },
    /// A salesperson moves a deal back to where it was.
    MoveBack,
}

/// An action and its time.
pub struct Event {
    /// Since Monday, 00:00, ms.
    pub at: Ms,
    /// For the progress display.
    pub what: String,
    /// What to do.
    pub action: Action,
}

const SAFARI: &str = "Mozilla/5.0 (Macintosh; Intel Mac OS X 14_5) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Safari/605.1.15";
const CHROME: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36";
const IPHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1";
const SLACKBOT: &str = "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)";

/// The week, in the order of its time.
pub fn week() -> Vec<Event> {
    let mut events = Vec::new();
    let mut add = |day: u64, hour: u64, minute: u64, what: &str, action: Action| {
        events.push(Event { at: day * DAY + hour * HOUR + minute * 60_000, what: what.to_owned(), action });
    };
    let visit = |target: &str, user_agent| Action::Visit(Visit { target: target.to_owned(), head: false, user_agent, status: 302 });

    // The article's example: two clicks over two days on the link of the follow-up e-mail.
    let email = "abc123?eid=801&utm_source=webinar&utm_campaign=q2-pricing&utm_medium=email";
    add(1, 10, 5, "Ada opens the pricing PDF", visit(email, SAFARI));
    add(2, 15, 40, "Ada opens it again", visit(email, IPHONE));

    // A buyer who reads everything: seven or eight clicks a day, 56 in all; the fiftieth is on Sunday.
    for day in 0..7 {
        for n in 0..8 {
            let link = if n % 2 == 0 { "abc123" } else { "case" };
            let target = format!("{link}?eid=802&utm_source=newsletter&utm_campaign=fleet&utm_medium=email");
            add(day, 8 + n, 20, "Grace reads on", visit(&target, CHROME));
        }
    }
    // 50 are reached at 09:20 on Sunday; the salesperson thinks otherwise in the afternoon, and she clicks on.
    add(6, 12, 0, "a salesperson moves \"Compiler support\" back", Action::MoveBack);

    // A form first, then ads: the click id names the form's address.
    let form = |id, email, gclid, fbclid| Action::Form { id, email, gclid, fbclid };
    add(0, 9, 0, "Katherine asks for a demo", form("form-1", " Katherine@Example.com", Some("Cj0KCQ-katherine"), None));
    let ad = "pricing?gclid=Cj0KCQ-katherine&utm_source=google&utm_medium=cpc&utm_campaign=brand";
    for (day, hour) in [(1, 9), (3, 14), (4, 16)] {
        add(day, hour, 10, "Katherine comes by an ad", visit(ad, CHROME));
    }

    // Ads first, then a form: three clicks are held until it comes.
    let ad = "pricing?fbclid=IwAR-mary&utm_source=facebook&utm_medium=paid-social&utm_campaign=launch";
    for (day, hour) in [(2, 11), (2, 18), (3, 9)] {
        add(day, hour, 30, "somebody comes by an ad", visit(ad, IPHONE));
    }
    add(3, 12, 0, "… it was Mary: her form arrives", form("form-2", "mary@example.com", None, Some("IwAR-mary")));

    // Two contacts that HubSpot merged: old mails still carry the old id.
    add(1, 11, 0, "Annie clicks in an old mail", visit("pricing?eid=77", SAFARI));
    add(2, 11, 0, "Annie clicks in an old mail", visit("pricing?eid=77", SAFARI));
    add(4, 11, 0, "Annie clicks in a new mail", visit("pricing?eid=805", SAFARI));

    // Nobody ever fills in a form for these; and these are not persons at all.
    add(0, 13, 0, "a stranger comes by an ad", visit("pricing?gclid=Cj0KCQ-stranger", CHROME));
    add(1, 13, 0, "the stranger comes again", visit("webinar?gclid=Cj0KCQ-stranger", CHROME));
    add(2, 13, 0, "somebody without any id", visit("webinar", CHROME));
    add(2, 13, 5, "a chat shows a preview", visit("abc123?eid=801&utm_source=slack", SLACKBOT));
    let head = Visit { target: "abc123?eid=801&utm_source=mailscan".to_owned(), head: true, user_agent: CHROME, status: 302 };
    add(2, 13, 6, "a mail scanner checks a link", Action::Visit(head));
    let unknown = Visit { target: "no-such-link?eid=801".to_owned(), head: false, user_agent: CHROME, status: 404 };
    add(2, 13, 7, "somebody mistypes a link", Action::Visit(unknown));

    events.sort_by_key(|event| event.at);
    events
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::rules;

    #[test]
    fn the_week_s_rules_are_read() {
        let rules = rules::read(RULES).expect("rules");
        assert_eq!(rules.len(), 2);
        assert_eq!(rules[0].threshold, 50);
    }

    #[test]
    fn what_is_left_to_move_can_be_moved() {
        let (contact, target, deal, clicks) = YOURS;
        let deal = DEALS.iter().find(|it| it.name == deal).expect("the deal");
        let rule = &rules::read(RULES).expect("rules")[1];
        assert_eq!((rule.threshold, &*rule.from_stage, deal.contact), (clicks, deal.stage, contact));
        assert!(target.ends_with(&format!("eid={contact}")) && rule.meaning().contains("s.elido.me/pricing"));
        assert!(!week().iter().any(|event| matches!(&event.action, Action::Visit(visit) if visit.target.contains(target))));
    }

    #[test]
    fn visits_by_eid_are_as_many_as_expected() {
        for contact in &CONTACTS {
            let named = |event: &&Event| match &event.action {
                Action::Visit(visit) => {
                    !visit.head
                        && visit.status == 302
                        && visit.user_agent != SLACKBOT
                        && visit.target.contains(&format!("eid={}", contact.id))
                }
                _ => false,
            };
            let n = week().iter().filter(named).count();
            assert!(n == contact.events || !["801", "802"].contains(&contact.id), "{} {n}", contact.id);
        }
    }
}
