//! Query parameters that ad, mail and analytics systems put on links to follow people.
//!
//! # Meaning
//! Each is somebody's: the destination's own scripts read it, so all of them go on, byte for byte. The click record has fields for seven
//! (`fbclid`, `gclid`, five `utm_*`) and takes no other. A visitor's may take the place of the destination's, and no other parameter may ([`known`]). One place is left where they would slip in, the referrer; there the ones that
//! are made for one visitor or one mail are cut out ([`personal`]), and so is `eid`, which may be a link's of ours.
//!
//! # The list
//! Our own, from the vendors' public documents on their link parameters. Names are facts; no list was copied.
//!
//! # Ties and edges
//! Names compare decoded and without case: a referrer has been through other people's systems.

use crate::query::pairs;
use std::borrow::Cow;

/// Made for one visitor, one click or one mail; in lower case.
const PERSONAL: &[&str] = &[
    // Ours.
    "eid",
    // Google: Ads, Display, app campaigns, Merchant Center, Analytics' linker.
    "gclid",
    "gclsrc",
    "dclid",
    "gbraid",
    "wbraid",
    "srsltid",
    "_ga",
    "_gl",
    "_gac",
    // Meta, X, TikTok, Snapchat, Pinterest, Reddit, LinkedIn, Nextdoor, Quora, Spotify and YouTube shares.
    "fbclid",
    "igshid",
    "igsh",
    "twclid",
    "ttclid",
    "sccid",
    "epik",
    "rdt_cid",
    "li_fat_id",
    "ndclid",
    "qclid",
    "si",
    // Microsoft, Yahoo, Yandex, Outbrain, Taboola, Rokt, Impact, Branch, Awin, Adobe, Marin, Sovrn.
    "msclkid",
    "vmcid",
    "yclid",
    "ysclid",
    "ymclid",
    "obclid",
    "dicbo",
    "tblci",
    "rtid",
    "irclickid",
    "irgwc",
    "_branch_match_id",
    "awc",
    "ef_id",
    "s_kwcid",
    "mkwid",
    "pcrid",
    "wickedid",
    // Mail: HubSpot, Mailchimp, Marketo, Klaviyo, Listrak, Bronto, Dotdigital, Vero, Omeda, Drip, ActiveCampaign, Wunderkind, Springbot.
    "_hsenc",
    "_hsmi",
    "__hstc",
    "__hssc",
    "__hsfp",
    "hsctatracking",
    "mc_eid",
    "mkt_tok",
    "_ke",
    "_kx",
    "trk_contact",
    "trk_msg",
    "trk_sid",
    "_bta_tid",
    "_bta_c",
    "dm_i",
    "vero_id",
    "vero_conv",
    "oly_enc_id",
    "oly_anon_id",
    "__s",
    "vgo_ee",
    "sms_click",
    "sms_uph",
    "redirect_log_mongo_id",
    "redirect_mongo_id",
];

/// Named alike for every visitor of a campaign; in lower case.
const CAMPAIGN: &[&str] = &[
    "gad_source",
    "gad_campaignid",
    "mc_cid",
    "trk_module",
    "hsa_acc",
    "hsa_ad",
    "hsa_cam",
    "hsa_grp",
    "hsa_kw",
    "hsa_mt",
    "hsa_net",
    "hsa_src",
    "hsa_tgt",
    "hsa_ver",
    "mkevt",
    "mkcid",
    "mkrid",
    "campid",
    "toolid",
    "customid",
    "sms_source",
    "sb_referer_host",
    "gdfms",
    "gdftrk",
    "gdffi",
    "gpromocode",
    "gqt",
];

/// Beginnings of names that campaigns use; in lower case.
const FAMILIES: &[&str] = &["utm_", "mtm_", "matomo_", "pk_", "piwik_", "tw_"];

/// What a parameter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Follows one visitor.
    Personal,
    /// Names a campaign.
    Campaign,
}

/// What a parameter of this (decoded) name is for; None when it is no tracking parameter known here.
pub(crate) fn kind(name: &str) -> Option<Kind> {
    let one_of = |names: &[&str]| names.iter().any(|other| name.eq_ignore_ascii_case(other));
    let begins = |family: &&str| name.get(..family.len()).is_some_and(|start| start.eq_ignore_ascii_case(family));
    if FAMILIES.iter().any(begins) {
        Some(Kind::Campaign)
    } else if one_of(PERSONAL) {
        Some(Kind::Personal)
    } else {
        one_of(CAMPAIGN).then_some(Kind::Campaign)
    }
}

/// Whether a parameter of this (decoded) name is a tracking parameter.
pub(crate) fn known(name: &str) -> bool {
    kind(name).is_some()
}

fn personal(name: &str) -> bool {
    kind(name) == Some(Kind::Personal)
}

/// A URL without the parameters that follow one visitor; all else as it was.
pub(crate) fn without_personal(url: Cow<'_, str>) -> Cow<'_, str> {
    let (whole, fragment) = url.split_at(url.find('#').unwrap_or(url.len()));
    let Some((base, query)) = whole.split_once('?') else { return url };
    if !pairs(query).any(|pair| personal(&pair.name())) {
        return url;
    }
    let kept: Vec<&str> = pairs(query).filter(|pair| !personal(&pair.name())).map(|pair| pair.raw).collect();
    let mark = if kept.is_empty() { "" } else { "?" };
    Cow::Owned(format!("{base}{mark}{}{fragment}", kept.join("&")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_a_visitor_is_cut_out_of_a_referrer() {
        for (url, kept) in [
            ("https://r.example/", "https://r.example/"),
            ("https://r.example/?q=a+b&utm_source=x#top", "https://r.example/?q=a+b&utm_source=x#top"),
            ("https://r.example/?q=a+b&FBCLID=x&mc%5Feid=1&z#top", "https://r.example/?q=a+b&z#top"),
            ("https://r.example/?eid=801", "https://r.example/"),
            ("https://r.example/?%65id=801#f", "https://r.example/#f"),
            ("android-app://com.example/?gclid", "android-app://com.example/"),
            ("?gclid=1&gclid=2", ""),
        ] {
            assert_eq!(without_personal(url.into()), kept, "{url}");
        }
    }

    #[test]
    fn kinds() {
        for (name, kind_of) in [
            ("gclid", Some(Kind::Personal)),
            ("ScCid", Some(Kind::Personal)),
            ("utm_id", Some(Kind::Campaign)),
            ("gPromoCode", Some(Kind::Campaign)),
            ("q", None),
            ("sid", None),
        ] {
            assert_eq!(kind(name), kind_of, "{name}");
        }
    }

    #[test]
    fn the_lists_are_in_lower_case_and_without_repeats() {
        let all: Vec<&str> = PERSONAL.iter().chain(CAMPAIGN).copied().collect();
        assert!(all.iter().all(|name| *name == name.to_ascii_lowercase()));
        assert_eq!(all.iter().collect::<std::collections::HashSet<_>>().len(), all.len());
        assert!(all.iter().all(|name| !FAMILIES.iter().any(|family| name.starts_with(family))));
    }
}
