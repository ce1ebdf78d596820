//! Output records: the deltas, what came to nothing, and the published counts.
//!
//! Each is a pure function of the input log; each says why it exists. `docs/topics.md` shows one of each.

use super::inputs::{Utm, UtmField};
use super::time::Ms;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The topics the job writes; the names are the defaults of `kafka.topics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Topic {
    /// One record per resolved click and portal.
    Timeline,
    /// One record per change of a person's last UTM values.
    ContactProperties,
    /// One record per deal to advance.
    DealStages,
    /// One record per click whose hold expired.
    Unresolved,
    /// One record per change of a published count.
    Counts,
    /// One record per input that could not be read.
    DeadLetters,
    /// What outlives the log, for the job's own next start; not an output for others.
    State,
}

impl Topic {
    /// All that others read, in the order of the documentation.
    pub const ALL: [Topic; 6] =
        [Topic::Timeline, Topic::ContactProperties, Topic::DealStages, Topic::Unresolved, Topic::Counts, Topic::DeadLetters];

    /// The topic's name unless the configuration says otherwise.
    pub fn default_name(self) -> &'static str {
        match self {
            Topic::Timeline => "hubspot.timeline",
            Topic::ContactProperties => "hubspot.contact-properties",
            Topic::DealStages => "hubspot.deal-stages",
            Topic::Unresolved => "clicks.unresolved",
            Topic::Counts => "clicks.counts",
            Topic::DeadLetters => "dead-letters",
            Topic::State => "clickline.state",
        }
    }
}

/// One record for one topic, encoded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Output {
    /// Where it goes.
    pub topic: Topic,
    /// The record's key.
    pub key: String,
    /// The record, JSON; nothing for a tombstone.
    pub value: Vec<u8>,
}

/// Who a delta is about: a contact of the portal, or an e-mail that no contact of the portal carries yet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Person {
    /// HubSpot's id of the contact.
    ContactId(String),
    /// Trimmed and in lower case.
    Email(String),
}

/// How a click's person was found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "by")]
pub enum Found {
    /// The link named the contact.
    Eid,
    /// A form carried the same click id.
    Form {
        /// The form.
        form_id: String,
        /// When it was submitted.
        form_ts: Ms,
        /// Form time minus click time, ms; negative when the form came first.
        after_click_ms: i64,
    },
}

/// How something stood when it was written: what the next start can't learn from the log that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct State {
    /// Schema version.
    #[schemars(range(min = 1, max = 1))]
    pub v: u32,
    /// Whose clicks.
    pub workspace: String,
    /// HubSpot account.
    pub portal: String,
    /// `c:` a contact id, `e:` an e-mail, `d:` a deal.
    pub who: String,
    /// What stood so.
    #[serde(flatten)]
    pub of: StateOf,
    /// At which tick's end, ms.
    pub at: Ms,
}

/// What a [`State`] is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum StateOf {
    /// A rule is hot for the subject.
    Period {
        /// The rule's workspace and meaning.
        rule: String,
        /// The tick's end at which it became so, ms.
        since: Ms,
    },
    /// Deals have advanced in the running hot period.
    Advanced {
        /// The rule's workspace and meaning.
        rule: String,
        /// Their ids.
        deals: Vec<String>,
    },
    /// Last campaign values.
    Values {
        /// By field.
        values: BTreeMap<UtmField, StateValue>,
    },
}

/// A last campaign value and the click that brought it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StateValue {
    /// The value.
    pub text: String,
    /// The click.
    pub click_id: String,
    /// The click's own time, ms.
    pub ts: Ms,
}

/// One resolved click for one portal: a timeline event to write.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TimelineEvent {
    /// Schema version.
    #[schemars(range(min = 1, max = 1))]
    pub v: u32,
    /// The event's id: a pure function of click id and portal.
    pub id: String,
    /// HubSpot account.
    pub portal: String,
    /// Where the click was made.
    pub workspace: String,
    /// The click.
    pub click_id: String,
    /// The click's own time.
    pub ts: Ms,
    /// Who made it, as the contact mirror had it then.
    #[serde(flatten)]
    pub person: Person,
    /// `Clicked: {title} ({link})`.
    pub title: String,
    /// What HubSpot shows: link slug, destination URL, campaign name, country, device.
    pub tokens: BTreeMap<String, String>,
    /// What HubSpot keeps: UTM set, referrer, user-agent parts, raw timestamp.
    #[schemars(with = "ExtraData")]
    pub extra_data: serde_json::Value,
    /// How the person was found.
    pub found: Found,
    /// When the click was resolved: the tick's end, log time.
    pub at: Ms,
}

/// What HubSpot keeps with a timeline event. A reader takes it as it comes ([`TimelineEvent::extra_data`]); fields stand in the order of their names, as
/// they do in what a reader writes again.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ExtraData<'a> {
    /// The page the click came from.
    pub referrer: Option<&'a str>,
    /// The click's own time, RFC 3339.
    pub timestamp: String,
    /// The click's own time, ms.
    pub timestamp_ms: Ms,
    /// Parts of the user agent.
    pub user_agent: AgentParts<'a>,
    /// The full set of campaign values.
    #[schemars(with = "Utm")]
    pub utm: UtmParts<'a>,
}

/// What is known of the visitor's program.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct AgentParts<'a> {
    /// Browser family.
    pub browser: Option<&'a str>,
    /// `desktop`, `mobile`, …
    pub device: Option<&'a str>,
    /// Operating system.
    pub os: Option<&'a str>,
}

/// The fields of [`Utm`], borrowed.
#[derive(Clone, Debug, Serialize)]
pub struct UtmParts<'a> {
    /// `utm_campaign`
    pub campaign: Option<&'a str>,
    /// `utm_content`
    pub content: Option<&'a str>,
    /// `utm_medium`
    pub medium: Option<&'a str>,
    /// `utm_source`
    pub source: Option<&'a str>,
    /// `utm_term`
    pub term: Option<&'a str>,
}

impl TimelineEvent {
    /// The event id of a click in a portal.
    pub fn id_of(click_id: &str, portal: &str) -> String {
        format!("clk:{click_id}:{portal}")
    }
}

/// Where a property's value came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ValueFrom {
    /// The click's id.
    pub click_id: String,
    /// The click's own time; of two values the later is the newer.
    pub ts: Ms,
}

/// A change of a person's last UTM values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ContactProperties {
    /// Schema version.
    #[schemars(range(min = 1, max = 1))]
    pub v: u32,
    /// Unique: portal, person and tick.
    pub id: String,
    /// HubSpot account.
    pub portal: String,
    /// Whose values they are.
    #[serde(flatten)]
    pub person: Person,
    /// The properties that changed, by HubSpot's internal name, with their new values.
    pub properties: BTreeMap<String, String>,
    /// For each of them the click it came from.
    pub from: BTreeMap<String, ValueFrom>,
    /// The tick's end, log time.
    pub at: Ms,
}

/// What a deal must satisfy besides pipeline and stage.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Guard {
    /// The deal must name the person among its contacts.
    pub require_associated_contact: bool,
    /// Least amount, in the deal's currency.
    pub deal_amount_min: Option<f64>,
}

/// The click that a stage delta names as its last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LastClick {
    /// The click's id.
    pub id: String,
    /// The click's own time.
    pub ts: Ms,
}

/// A deal that has earned its next stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DealStage {
    /// Schema version.
    #[schemars(range(min = 1, max = 1))]
    pub v: u32,
    /// Unique: rule, subject, deal and hot period.
    pub id: String,
    /// HubSpot account.
    pub portal: String,
    /// Whose rule it is.
    pub workspace: String,
    /// The rule's name.
    pub rule: String,
    /// `true` when the rule only watches: nothing may be written to HubSpot.
    pub shadow: bool,
    /// The deal to move.
    pub deal_id: String,
    /// The person whose clicks earned it; absent for rules that count a deal's own links.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub person: Option<Person>,
    /// The pipeline the deal must be in.
    pub pipeline: String,
    /// The stage the deal must be in.
    pub from_stage: String,
    /// The stage it has earned.
    pub to_stage: String,
    /// What else must hold at the moment of writing.
    pub guard: Guard,
    /// The tag that is counted; else `link` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_tag: Option<String>,
    /// The link that is counted; else `link_tag` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// Clicks in the window at `at`.
    pub count: u64,
    /// Clicks that make the rule hot.
    pub threshold: u64,
    /// The window's length, ms.
    pub window_ms: Ms,
    /// When the hot period began: a tick's end, log time.
    pub hot_since: Ms,
    /// The newest click that counted when the hot period began or later.
    pub last_click: LastClick,
    /// The tick's end, log time.
    pub at: Ms,
}

/// A click that found nobody within 72 h.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Unresolved {
    /// Schema version.
    #[schemars(range(min = 1, max = 1))]
    pub v: u32,
    /// The click as it was read.
    pub click: super::Click,
    /// Always `hold-expired`.
    pub reason: String,
    /// The tick's end, log time.
    pub at: Ms,
}

/// A published count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Count {
    /// Schema version.
    #[schemars(range(min = 1, max = 1))]
    pub v: u32,
    /// HubSpot account.
    pub portal: String,
    /// Whose clicks; absent for a deal's own links.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub person: Option<Person>,
    /// The deal whose links are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deal_id: Option<String>,
    /// The workspace of the clicks.
    pub workspace: String,
    /// The tag that is counted; else `link` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_tag: Option<String>,
    /// The link that is counted; else `link_tag` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// The window's length, ms.
    pub window_ms: Ms,
    /// Clicks in the window at `at`.
    pub count: u64,
    /// The tick of the second at which its counts are published, log time, ms.
    pub at: Ms,
}

/// An input that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeadLetter {
    /// Schema version.
    #[schemars(range(min = 1, max = 1))]
    pub v: u32,
    /// Reason code; docs/hubspot.md lists them.
    pub reason: String,
    /// What is wrong, without quoting the record.
    pub detail: String,
    /// Topic, or the file's path.
    pub source: String,
    /// Partition; 0 for a file.
    pub partition: i32,
    /// Offset; the line's number, from 1, for a file.
    pub offset: i64,
    /// The record's key, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_base64: Option<String>,
    /// The original bytes, base64.
    pub payload_base64: String,
    /// The tick's end, log time.
    pub at: Ms,
}
