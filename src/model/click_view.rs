//! A click's texts where they lie: what reading, packing and unpacking have in common.

use super::inputs::{Click, Utm};
use super::time::Ms;
use smallvec::SmallVec;

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
}
