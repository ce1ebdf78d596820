//! Rows into the records of the delta topics.
//!
//! Pure: a record is a function of the row, the plan and the tick's end. Keys are those of the contract, section 8.

use super::last_utm::{NewValue, UtmChange};
use super::plan::{DEFAULT_WINDOW, Plan};
use super::rows::{Advance, CountChange, Resolved, Via, Who};
use crate::config::rules::{Counted, Mode, window_text};
use crate::model::outputs::{
    AgentParts, Count, DeadLetter, DealStage, ExtraData, Found, LastClick, Output, Person, TimelineEvent, Topic, Unresolved, UtmParts,
    ValueFrom,
};
use crate::model::time::{Ms, rfc3339};
use crate::model::{ClickView, PackedClick};
use serde::{Serialize, Serializer};
use smallvec::SmallVec;

/// The tokens of a timeline event, by name; the event template has the same ones, and the title.
pub const TOKENS: [&str; 5] = ["link_slug", "destination_url", "campaign_name", "country", "device"];

/// Bytes that most records take: what is longer grows.
const ROOM: usize = 512;

fn output(topic: Topic, key: impl Into<String>, record: &impl Serialize) -> Output {
    let mut value = Vec::with_capacity(ROOM);
    // Our own records: strings, numbers and maps with string keys, which JSON always takes.
    serde_json::to_writer(&mut value, record).expect("our own records are JSON");
    Output { topic, key: key.into(), value }
}

/// Those of an event that are there, in the order of their names.
type Tokens<'a> = SmallVec<[(&'static str, &'a str); TOKENS.len()]>;

/// A [`TimelineEvent`] as it is written, once for each click: of texts that lie elsewhere. What it says is held against that type by a test.
#[derive(Serialize)]
struct EventToWrite<'a> {
    v: u32,
    id: String,
    portal: &'a str,
    workspace: &'a str,
    click_id: &'a str,
    ts: Ms,
    #[serde(flatten)]
    person: Person,
    title: String,
    #[serde(serialize_with = "texts")]
    tokens: Tokens<'a>,
    extra_data: ExtraData<'a>,
    found: Found,
    at: Ms,
}

/// A change of a person's values ([`crate::model::outputs::ContactProperties`]) as it is written, likewise.
#[derive(Serialize)]
struct PropertiesToWrite<'a> {
    v: u32,
    id: String,
    portal: &'a str,
    #[serde(flatten)]
    person: Person,
    #[serde(serialize_with = "properties")]
    properties: &'a [NewValue],
    #[serde(serialize_with = "sources")]
    from: &'a [NewValue],
    at: Ms,
}

fn texts<S: Serializer>(tokens: &Tokens<'_>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(tokens.iter().copied())
}

fn properties<S: Serializer>(values: &[NewValue], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(values.iter().map(|value| (value.property.as_str(), &*value.text)))
}

fn sources<S: Serializer>(values: &[NewValue], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(
        values.iter().map(|value| (value.property.as_str(), ValueFrom { click_id: value.click.id.to_string(), ts: value.click.ts })),
    )
}

fn person(who: Who) -> Person {
    who.person().unwrap_or_else(|| Person::ContactId(who.text().to_owned()))
}

/// A resolved click's timeline event.
pub fn timeline(resolved: &Resolved, at: Ms) -> Output {
    let click = &resolved.hit.click.view();
    let portal = resolved.hit.subject.portal;
    let found = match &resolved.hit.via {
        Some(Via::Form(form)) => Found::Form {
            form_id: form.id.clone(),
            form_ts: form.ts,
            after_click_ms: i64::try_from(form.ts).unwrap_or(i64::MAX).saturating_sub(i64::try_from(click.ts).unwrap_or(i64::MAX)),
        },
        Some(Via::Eid) | None => Found::Eid,
    };
    let event = EventToWrite {
        v: 1,
        id: TimelineEvent::id_of(click.id, &portal),
        portal: portal.as_str(),
        workspace: click.workspace,
        click_id: click.id,
        ts: click.ts,
        person: person(resolved.person),
        title: title(click),
        tokens: tokens(click),
        extra_data: extra_data(click),
        found,
        at,
    };
    output(Topic::Timeline, portal.as_str(), &event)
}

fn title(click: &ClickView<'_>) -> String {
    match click.title.filter(|title| !title.trim().is_empty()) {
        Some(title) => format!("Clicked: {title} ({})", click.link),
        None => format!("Clicked: {}", click.link),
    }
}

fn tokens<'a>(click: &ClickView<'a>) -> Tokens<'a> {
    let slug = click.link.split_once('/').map_or(click.link, |(_, slug)| slug);
    let values: [Option<&str>; TOKENS.len()] = [Some(slug), click.destination, click.campaign, click.country, click.device];
    let mut tokens: Tokens<'a> = TOKENS.into_iter().zip(values).filter_map(|(name, value)| Some((name, value?))).collect();
    tokens.sort_unstable();
    tokens
}

fn extra_data<'a>(click: &ClickView<'a>) -> ExtraData<'a> {
    ExtraData {
        referrer: click.referrer,
        timestamp: rfc3339(click.ts),
        timestamp_ms: click.ts,
        user_agent: AgentParts { browser: click.browser, device: click.device, os: click.os },
        utm: UtmParts { campaign: click.campaign, content: click.content, medium: click.medium, source: click.source, term: click.term },
    }
}

/// A change of a person's last campaign values.
pub fn contact_properties(change: &UtmChange, at: Ms) -> Output {
    let record = PropertiesToWrite {
        v: 1,
        id: format!("utm:{}:{}:{at}", change.portal, change.who),
        portal: change.portal.as_str(),
        person: person(change.who),
        properties: &change.values,
        from: &change.values,
        at,
    };
    output(Topic::ContactProperties, change.portal.as_str(), &record)
}

/// A deal that has earned its next stage; `None` for a rule that the plan does not have.
pub fn deal_stage(advance: &Advance, plan: &Plan, at: Ms) -> Option<Output> {
    let rule = &plan.rules.get(advance.candidate.rule as usize)?.rule;
    let subject = advance.candidate.subject;
    let (link_tag, link) = counted(&rule.counted);
    let record = DealStage {
        v: 1,
        // A rule's name is its own within a workspace, and several workspaces may share a portal.
        id: format!(
            "stage:{}:{}:{}:{}:{}:{}",
            subject.portal, advance.deal, subject.who, subject.workspace, rule.name, advance.period.since
        ),
        portal: subject.portal.to_string(),
        workspace: subject.workspace.to_string(),
        rule: rule.name.clone(),
        shadow: rule.mode == Mode::Shadow,
        deal_id: advance.deal.to_string(),
        person: subject.who.person(),
        pipeline: rule.pipeline.clone(),
        from_stage: rule.from_stage.clone(),
        to_stage: rule.to_stage.clone(),
        guard: rule.guard,
        link_tag,
        link,
        count: advance.period.count,
        threshold: rule.threshold,
        window_ms: rule.window,
        hot_since: advance.period.since,
        last_click: LastClick { id: advance.period.last.id.to_string(), ts: advance.period.last.ts },
        at,
    };
    Some(output(Topic::DealStages, subject.portal.as_str(), &record))
}

fn counted(counted: &Counted) -> (Option<String>, Option<String>) {
    match counted {
        Counted::Tag(tag) => (Some(tag.clone()), None),
        Counted::Link(link) => (None, Some(link.clone())),
    }
}

/// A click that found nobody.
pub fn unresolved(click: &PackedClick, at: Ms) -> Output {
    let record = Unresolved { v: 1, click: click.unpacked(), reason: "hold-expired".to_owned(), at };
    output(Topic::Unresolved, click.workspace(), &record)
}

/// A published count.
pub fn count(change: &CountChange, plan: &Plan, at: Ms) -> Output {
    let CountChange { subject, measure, is, .. } = change;
    let (kind, text) = measure.key.split_at(2);
    let (link_tag, link) = if kind == "t:" { (Some(text.to_owned()), None) } else { (None, Some(text.to_owned())) };
    let record = Count {
        v: 1,
        portal: subject.portal.to_string(),
        person: subject.who.person(),
        deal_id: subject.who.is_deal().then(|| subject.who.text().to_owned()),
        workspace: subject.workspace.to_string(),
        link_tag,
        link,
        window_ms: measure.window,
        count: *is,
        at,
    };
    output(Topic::Counts, count_key(change, plan), &record)
}

/// `portal/person/tag` or `portal/person/link`, with what tells it apart where that is not enough: another window than 30
/// days, one of several workspaces of the portal, a deal, a contact id that looks like an e-mail, a tag like a link.
fn count_key(change: &CountChange, plan: &Plan) -> String {
    let CountChange { subject, measure, .. } = change;
    let (who_mark, who) = match subject.who.person() {
        None => ("deal:", subject.who.text().to_owned()),
        Some(Person::ContactId(id)) if id.contains('@') => ("contact:", id),
        Some(Person::ContactId(who) | Person::Email(who)) => ("", who),
    };
    let (kind, text) = measure.key.split_at(2);
    let what_mark = if kind == "t:" && text.contains('/') { "tag:" } else { "" };
    let window = if measure.window == DEFAULT_WINDOW { String::new() } else { format!("@{}", window_text(measure.window)) };
    let workspace = if plan.connected_to(subject.portal).nth(1).is_some() { format!("#{}", subject.workspace) } else { String::new() };
    format!("{}/{who_mark}{who}/{what_mark}{text}{window}{workspace}", subject.portal)
}

/// An input that could not be read; the tick is the record's own.
pub fn dead_letter(letter: &DeadLetter, at: Ms) -> Output {
    output(Topic::DeadLetters, letter.source.as_str(), &DeadLetter { at, ..letter.clone() })
}

#[cfg(test)]
mod tests {
    use super::super::plan::{Connection, Counts, Times, WorkspaceSpec, link_key, tag_key};
    use super::super::rows::{ClickRef, Hit, Measure, Subject};
    use super::*;
    use crate::model::outputs::ContactProperties;
    use crate::model::time::DAY;
    use crate::model::{Click, Form, Utm};
    use proptest::prelude::*;
    use std::sync::Arc;
    use ustr::{Ustr, ustr};

    fn connection() -> Connection {
        Connection { workspace: ustr("acme"), portal: ustr("4242") }
    }

    /// The article's click.
    #[test]
    fn a_timeline_event_says_what_the_article_says() {
        let text = |value: &str| Some(value.to_owned());
        let click = Click {
            id: "c-1".into(),
            ts: 1_763_800_000_123,
            workspace: "acme".into(),
            link: "s.elido.me/abc123".into(),
            title: text("Q2 pricing PDF"),
            destination: text("https://acme.example/pricing.pdf"),
            utm: Utm { source: text("webinar"), medium: text("email"), campaign: text("q2-pricing"), ..Utm::default() },
            country: text("FR"),
            device: text("desktop"),
            ..Click::default()
        };
        let who = Who::contact("801");
        let hit = Hit { subject: Subject::new(connection(), who), click: click.clone().into(), via: Some(Via::Eid) };
        let said = timeline(&Resolved { hit, person: who }, 1_763_800_000_200);
        assert_eq!((said.topic, said.key.as_str()), (Topic::Timeline, "4242"));
        let event: TimelineEvent = serde_json::from_slice(&said.value).expect("a timeline event");
        assert_eq!(event.title, "Clicked: Q2 pricing PDF (s.elido.me/abc123)");
        assert_eq!((event.id.as_str(), event.ts, event.found), ("clk:c-1:4242", click.ts, Found::Eid));
        let tokens: Vec<(&str, &str)> = event.tokens.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(
            tokens,
            [
                ("campaign_name", "q2-pricing"),
                ("country", "FR"),
                ("destination_url", "https://acme.example/pricing.pdf"),
                ("device", "desktop"),
                ("link_slug", "abc123")
            ]
        );
        assert_eq!(event.extra_data["utm"]["source"], "webinar");
        assert_eq!(event.extra_data["timestamp"], "2025-11-22T08:26:40.123Z");
        assert_eq!(title(&ClickView::of(&Click { title: text(" "), ..click })), "Clicked: s.elido.me/abc123");
    }

    /// Written borrowed and in the order in which a reader writes it again: all that `record` says, and nothing else.
    fn holds<T: Serialize + serde::de::DeserializeOwned>(said: &Output) -> T {
        let record: T = serde_json::from_slice(&said.value).expect("a record of its topic");
        let again = serde_json::to_string(&record).expect("JSON");
        assert_eq!(again, String::from_utf8(said.value.clone()).expect("UTF-8"));
        record
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_a_reader_reads(texts in proptest::collection::vec(proptest::option::of(".{0,9}"), 15), form in any::<bool>(), mail in any::<bool>(), ts in 0..4_000_000_000_000u64) {
            let text = |place: usize| texts[place].clone();
            let [source, medium, campaign, term, content] = [0, 1, 2, 3, 4].map(text);
            let click = Click {
                id: "c-1".into(),
                ts,
                workspace: "acme".into(),
                link: format!("s.elido.me/{}", text(5).unwrap_or_default()),
                title: text(6),
                destination: text(7),
                utm: Utm { source, medium, campaign, term, content },
                referrer: text(8),
                country: text(9),
                device: text(10),
                os: text(11),
                browser: text(12),
                ..Click::default()
            };
            let who = if mail { Who::email("ada@x") } else { Who::contact("801") };
            let of = Form { id: "f".into(), ts: 7, ..Form::default() };
            let via = if form { Via::Form(Arc::new(of)) } else { Via::Eid };
            let hit = Hit { subject: Subject::new(connection(), who), click: click.clone().into(), via: Some(via) };
            let event: TimelineEvent = holds(&timeline(&Resolved { hit, person: who }, 100));
            prop_assert_eq!(event.tokens.get("campaign_name"), click.utm.campaign.as_ref());
            prop_assert_eq!(event.tokens.len(), 1 + [&click.destination, &click.utm.campaign, &click.country, &click.device].into_iter().flatten().count());
            prop_assert_eq!(event.extra_data["referrer"].as_str(), click.referrer.as_deref());

            let value = |property: &str, place: usize| NewValue {
                property: ustr(property),
                text: text(place).unwrap_or_default().into(),
                click: ClickRef::of(&PackedClick::from(&click)),
            };
            let values = [value("last_utm_campaign", 13), value("last_utm_source", 14)].into_iter().collect();
            let record: ContactProperties = holds(&contact_properties(&UtmChange { portal: ustr("4242"), who, values }, 100));
            prop_assert_eq!(record.properties.len(), 2);
            prop_assert_eq!(record.from["last_utm_source"].ts, ts);
        }
    }

    #[test]
    fn count_keys_tell_apart_what_the_contract_s_keys_would_not() {
        let plan = |workspaces: &[&str]| {
            let spec = |name: &&str| WorkspaceSpec { name: (*name).to_owned(), portals: vec!["4242".into()], counts: Counts::Ruled };
            Plan::new(Times::with_tick(100), &workspaces.iter().map(spec).collect::<Vec<_>>(), &[], |_, _| 0).expect("a plan")
        };
        let key = |who: Who, key: Ustr, window: Ms, workspaces: &[&str]| {
            let change = CountChange { subject: Subject::new(connection(), who), measure: Measure { key, window }, was: 0, is: 1 };
            count_key(&change, &plan(workspaces))
        };
        let ada = Who::contact("801");
        assert_eq!(key(ada, tag_key("x"), 30 * DAY, &["acme"]), "4242/801/x");
        assert_eq!(key(Who::email("a@x"), link_key("d/1"), 30 * DAY, &["acme"]), "4242/a@x/d/1");
        assert_eq!(key(Who::contact("a@x"), tag_key("d/1"), 7 * DAY, &["acme"]), "4242/contact:a@x/tag:d/1@7d");
        assert_eq!(key(Who::deal("9001"), tag_key("x"), 30 * DAY, &["acme", "other"]), "4242/deal:9001/x#acme");
    }
}
