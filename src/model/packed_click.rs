//! A click in two pieces of memory rather than twenty.
//!
//! # Meaning
//! The same record as [`Click`], for those who handle many of them: the job's sources read it, the dataflow hands it on. A
//! [`Click`] is a structure of texts, each somewhere else in memory and each to be waited for and freed; here they are one
//! text, in the order in which the dataflow looks at them, with the place where each ends.
//!
//! # Cost
//! About 170 bytes beside the text itself; two allocations.

use super::click_id::ClickId;
use super::inputs::{Click, Utm, UtmField};
use super::time::Ms;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use std::sync::Arc;

/// The texts of a click beside its tags, in the order in which they lie.
#[derive(Clone, Copy)]
enum Text {
    Workspace,
    Link,
    ContactId,
    Gclid,
    Fbclid,
    DealId,
    Source,
    Campaign,
    Medium,
    Bot,
    Id,
    Title,
    Destination,
    Term,
    Content,
    Referrer,
    UserAgent,
    Device,
    Os,
    Browser,
    Country,
}

/// How many of them there are.
const TEXTS: usize = Text::Country as usize + 1;

/// One redirect served; see the module.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct PackedClick {
    /// When it happened, ms since the epoch.
    pub ts: Ms,
    /// Unique id, small.
    pub id: ClickId,
    v: u32,
    /// Bits of the texts that are there.
    given: u32,
    /// Where each text ends; it begins where the one before ends, the first of them where the tags end.
    ends: [u32; TEXTS],
    /// Where each tag ends.
    tags: SmallVec<[u32; 4]>,
    text: Box<str>,
}

/// The texts of a click where they lie: in a record's bytes, or in a [`Click`].
#[derive(Clone, Debug, PartialEq)]
pub struct ClickView<'a> {
    /// Schema version.
    pub v: u32,
    /// Unique id.
    pub id: &'a str,
    /// When it happened, ms since the epoch.
    pub ts: Ms,
    /// Whose link it is.
    pub workspace: &'a str,
    /// `domain/slug`.
    pub link: &'a str,
    /// The link's title.
    pub title: Option<&'a str>,
    /// Where the visitor was sent.
    pub destination: Option<&'a str>,
    /// The link's tags.
    pub tags: SmallVec<[&'a str; 4]>,
    /// The deal that the link names.
    pub deal_id: Option<&'a str>,
    /// The contact named in the link.
    pub contact_id: Option<&'a str>,
    /// Facebook's click id.
    pub fbclid: Option<&'a str>,
    /// Google's click id.
    pub gclid: Option<&'a str>,
    /// `utm_source`
    pub source: Option<&'a str>,
    /// `utm_medium`
    pub medium: Option<&'a str>,
    /// `utm_campaign`
    pub campaign: Option<&'a str>,
    /// `utm_term`
    pub term: Option<&'a str>,
    /// `utm_content`
    pub content: Option<&'a str>,
    /// The page it came from.
    pub referrer: Option<&'a str>,
    /// The browser's own words.
    pub user_agent: Option<&'a str>,
    /// `desktop`, `mobile`, …
    pub device: Option<&'a str>,
    /// Operating system.
    pub os: Option<&'a str>,
    /// Browser family.
    pub browser: Option<&'a str>,
    /// ISO 3166 code.
    pub country: Option<&'a str>,
    /// Why it is held to be a machine's.
    pub bot: Option<&'a str>,
}

impl<'a> ClickView<'a> {
    /// Of a click.
    pub fn of(click: &'a Click) -> Self {
        // Field by field, so that a new one can't be forgotten.
        let Click { v, id, ts, workspace, link, title, destination, tags, deal_id, contact_id, fbclid, gclid, utm, .. } = click;
        let Click { referrer, user_agent, device, os, browser, country, bot, .. } = click;
        let Utm { source, medium, campaign, term, content } = utm;
        ClickView {
            v: *v,
            id,
            ts: *ts,
            workspace,
            link,
            title: title.as_deref(),
            destination: destination.as_deref(),
            tags: tags.iter().map(String::as_str).collect(),
            deal_id: deal_id.as_deref(),
            contact_id: contact_id.as_deref(),
            fbclid: fbclid.as_deref(),
            gclid: gclid.as_deref(),
            source: source.as_deref(),
            medium: medium.as_deref(),
            campaign: campaign.as_deref(),
            term: term.as_deref(),
            content: content.as_deref(),
            referrer: referrer.as_deref(),
            user_agent: user_agent.as_deref(),
            device: device.as_deref(),
            os: os.as_deref(),
            browser: browser.as_deref(),
            country: country.as_deref(),
            bot: bot.as_deref(),
        }
    }

    /// As a structure that owns its texts.
    pub fn owned(&self) -> Click {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Click {
            v: self.v,
            id: self.id.to_owned(),
            ts: self.ts,
            workspace: self.workspace.to_owned(),
            link: self.link.to_owned(),
            title: owned(self.title),
            destination: owned(self.destination),
            tags: self.tags.iter().map(|tag| (*tag).to_owned()).collect(),
            deal_id: owned(self.deal_id),
            contact_id: owned(self.contact_id),
            fbclid: owned(self.fbclid),
            gclid: owned(self.gclid),
            utm: Utm {
                source: owned(self.source),
                medium: owned(self.medium),
                campaign: owned(self.campaign),
                term: owned(self.term),
                content: owned(self.content),
            },
            referrer: owned(self.referrer),
            user_agent: owned(self.user_agent),
            device: owned(self.device),
            os: owned(self.os),
            browser: owned(self.browser),
            country: owned(self.country),
            bot: owned(self.bot),
        }
    }

    /// In one text. A record has at most a megabyte, so places fit.
    pub fn packed(&self) -> PackedClick {
        let texts: [Option<&str>; TEXTS] = [
            Some(self.workspace),
            Some(self.link),
            self.contact_id,
            self.gclid,
            self.fbclid,
            self.deal_id,
            self.source,
            self.campaign,
            self.medium,
            self.bot,
            Some(self.id),
            self.title,
            self.destination,
            self.term,
            self.content,
            self.referrer,
            self.user_agent,
            self.device,
            self.os,
            self.browser,
            self.country,
        ];
        let length = self.tags.iter().copied().chain(texts.into_iter().flatten()).map(str::len).sum();
        let mut text = String::with_capacity(length);
        let mut put = |part: &str| {
            text.push_str(part);
            u32::try_from(text.len()).expect("a record is smaller than 4 GB")
        };
        let tags: SmallVec<[u32; 4]> = self.tags.iter().map(|tag| put(tag)).collect();
        let (mut ends, mut given, mut end) = ([0; TEXTS], 0, tags.last().copied().unwrap_or(0));
        for (place, part) in texts.into_iter().enumerate() {
            if let Some(part) = part {
                given |= 1 << place;
                end = put(part);
            }
            ends[place] = end;
        }
        PackedClick { ts: self.ts, id: ClickId::of(self.id), v: self.v, given, ends, tags, text: text.into_boxed_str() }
    }
}

impl PackedClick {
    /// Between two places; nothing where they are none, which only a damaged record of another process has.
    fn slice(&self, from: u32, to: u32) -> &str {
        self.text.get(from as usize..to as usize).unwrap_or_default()
    }

    fn text(&self, text: Text) -> &str {
        let place = text as usize;
        let before = place.checked_sub(1).map(|before| self.ends[before]);
        self.slice(before.unwrap_or_else(|| self.tags.last().copied().unwrap_or(0)), self.ends[place])
    }

    fn optional(&self, text: Text) -> Option<&str> {
        (self.given >> text as usize & 1 == 1).then(|| self.text(text))
    }

    /// The id's text.
    pub fn id_text(&self) -> &str {
        self.text(Text::Id)
    }

    /// Whose link it is.
    pub fn workspace(&self) -> &str {
        self.text(Text::Workspace)
    }

    /// `domain/slug`.
    pub fn link(&self) -> &str {
        self.text(Text::Link)
    }

    /// The link's tags.
    pub fn tags(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tags.iter().enumerate().map(|(place, end)| self.slice(place.checked_sub(1).map_or(0, |before| self.tags[before]), *end))
    }

    /// The deal that the link names.
    pub fn deal_id(&self) -> Option<&str> {
        self.optional(Text::DealId)
    }

    /// The contact named in the link.
    pub fn contact_id(&self) -> Option<&str> {
        self.optional(Text::ContactId)
    }

    /// Facebook's click id.
    pub fn fbclid(&self) -> Option<&str> {
        self.optional(Text::Fbclid)
    }

    /// Google's click id.
    pub fn gclid(&self) -> Option<&str> {
        self.optional(Text::Gclid)
    }

    /// A campaign value.
    pub fn utm(&self, field: UtmField) -> Option<&str> {
        self.optional(match field {
            UtmField::Source => Text::Source,
            UtmField::Campaign => Text::Campaign,
            UtmField::Medium => Text::Medium,
        })
    }

    /// Why it is held to be a machine's; `None` for a person's.
    pub fn bot(&self) -> Option<&str> {
        self.optional(Text::Bot)
    }

    /// All of it.
    pub fn view(&self) -> ClickView<'_> {
        ClickView {
            v: self.v,
            id: self.id_text(),
            ts: self.ts,
            workspace: self.workspace(),
            link: self.link(),
            title: self.optional(Text::Title),
            destination: self.optional(Text::Destination),
            tags: self.tags().collect(),
            deal_id: self.deal_id(),
            contact_id: self.contact_id(),
            fbclid: self.fbclid(),
            gclid: self.gclid(),
            source: self.optional(Text::Source),
            medium: self.optional(Text::Medium),
            campaign: self.optional(Text::Campaign),
            term: self.optional(Text::Term),
            content: self.optional(Text::Content),
            referrer: self.optional(Text::Referrer),
            user_agent: self.optional(Text::UserAgent),
            device: self.optional(Text::Device),
            os: self.optional(Text::Os),
            browser: self.optional(Text::Browser),
            country: self.optional(Text::Country),
            bot: self.bot(),
        }
    }

    /// As a structure that owns its texts.
    pub fn unpacked(&self) -> Click {
        self.view().owned()
    }
}

impl std::fmt::Debug for PackedClick {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.view().fmt(f)
    }
}

impl From<&Click> for PackedClick {
    fn from(click: &Click) -> Self {
        ClickView::of(click).packed()
    }
}

impl From<Click> for Arc<PackedClick> {
    fn from(click: Click) -> Self {
        Arc::new(PackedClick::from(&click))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text() -> impl Strategy<Value = String> {
        "[a-zé日/0-9]{0,6}"
    }

    proptest! {
        /// Absent, empty and not, short and long, in any order: what goes in comes out.
        #[test]
        fn what_is_packed_is_unpacked(
            required in (text(), any::<u64>(), text(), text()),
            rest in proptest::collection::vec(proptest::option::of(text()), 17),
            tags in proptest::collection::vec(text(), 0..7),
        ) {
            let (id, ts, workspace, link) = required;
            let mut rest = rest.into_iter();
            let mut next = || rest.next().flatten();
            let utm = Utm { source: next(), medium: next(), campaign: next(), term: next(), content: next() };
            let click = Click {
                v: 1, id, ts, workspace, link, title: next(), destination: next(), tags, deal_id: next(), contact_id: next(), fbclid: next(),
                gclid: next(), utm, referrer: next(), user_agent: next(), device: next(), os: next(), browser: next(), country: next(), bot: None,
            };
            let packed = PackedClick::from(&click);
            prop_assert_eq!(&packed.unpacked(), &click);
            prop_assert_eq!(packed.id.to_string(), packed.id_text());
            prop_assert_eq!(packed.tags().collect::<Vec<_>>(), click.tags.iter().map(String::as_str).collect::<Vec<_>>());
            for field in UtmField::ALL {
                prop_assert_eq!(packed.utm(field), field.of(&click));
            }
        }
    }

    /// What comes from another process is not trusted with a place in the text.
    #[test]
    fn places_that_are_none_are_no_text() {
        let mut packed = PackedClick::from(&Click { link: "d/é".into(), tags: vec!["x".into()], ..Click::default() });
        packed.ends = [3; TEXTS];
        packed.tags[0] = 9;
        assert_eq!((packed.link(), packed.tags().next(), packed.workspace()), ("", Some(""), ""));
    }
}
