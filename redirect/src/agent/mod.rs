//! Device, system and browser from a user agent's words.
//!
//! # Meaning
//! A small reader of our own for the few families that matter in a click report: the crates that know thousands (woothee, isbot) have had no
//! release for years, and a full rule set costs tens of microseconds per click. What it doesn't know is null, never a guess.
//!
//! # Ties and edges
//! The first family that fits wins, and the order is made so that those who imitate come first: Edge and Opera say `Chrome`, Chrome says
//! `Safari`. iPads ask for desktop pages and then call themselves Macs; nothing in the user agent tells them apart.

mod cache;

pub(crate) use cache::{Cache, Facts};

/// What a user agent says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Agent {
    /// `desktop`, `mobile` or `tablet`.
    pub device: Option<&'static str>,
    /// Operating system, without version.
    pub os: Option<&'static str>,
    /// Browser family, without version.
    pub browser: Option<&'static str>,
}

/// Fragment of the user agent, and the family it stands for; the first that fits wins.
type Families = [(&'static str, &'static str)];

const SYSTEMS: &Families = &[
    ("Windows Phone", "Windows Phone"),
    ("Windows", "Windows"),
    ("iPhone", "iOS"),
    ("iPad", "iOS"),
    ("iPod", "iOS"),
    ("Sailfish", "Sailfish"),
    ("Android", "Android"),
    ("Web0S", "webOS"),
    ("webOS", "webOS"),
    ("hpwOS", "webOS"),
    ("Maemo", "Maemo"),
    ("CrOS", "ChromeOS"),
    ("Macintosh", "macOS"),
    ("Tizen", "Tizen"),
    ("KAIOS", "KaiOS"),
    ("BlackBerry", "BlackBerry"),
    ("BB10", "BlackBerry"),
    ("Symbian", "Symbian"),
    ("SymbOS", "Symbian"),
    ("FreeBSD", "FreeBSD"),
    ("OpenBSD", "OpenBSD"),
    ("Linux", "Linux"),
];

const BROWSERS: &Families = &[
    ("EdgA/", "Edge"),
    ("EdgiOS/", "Edge"),
    ("Edg/", "Edge"),
    ("Edge/", "Edge"),
    ("OPR/", "Opera"),
    ("OPT/", "Opera"),
    ("OPiOS/", "Opera"),
    ("Opera", "Opera"),
    ("Vivaldi/", "Vivaldi"),
    ("YaBrowser/", "Yandex Browser"),
    ("SamsungBrowser/", "Samsung Internet"),
    ("UCBrowser/", "UC Browser"),
    ("DuckDuckGo/", "DuckDuckGo"),
    ("Ddg/", "DuckDuckGo"),
    ("Brave/", "Brave"),
    ("Brave Chrome/", "Brave"),
    ("Whale/", "Whale"),
    ("Puffin/", "Puffin"),
    ("Silk/", "Amazon Silk"),
    ("HonorBrowser/", "Honor Browser"),
    ("HuaweiBrowser/", "Huawei Browser"),
    ("MiuiBrowser/", "MiuiBrowser"),
    ("HeyTapBrowser/", "HeyTap Browser"),
    ("VivoBrowser/", "Vivo Browser"),
    ("coc_coc_browser/", "Coc Coc"),
    ("AlohaBrowser/", "Aloha Browser"),
    ("Avast/", "Avast Secure Browser"),
    ("Maxthon", "Maxthon"),
    ("Iron/", "Iron"),
    ("QtWebEngine/", "Qt Web Engine"),
    ("QupZilla/", "QupZilla"),
    ("NokiaBrowser/", "Nokia Browser"),
    ("BrowserNG/", "Nokia Browser"),
    ("Spotify/", "Spotify"),
    ("Microsoft Outlook", "Outlook"),
    ("MSOffice", "Outlook"),
    ("Weibo", "Weibo"),
    ("Snapchat/", "Snapchat"),
    ("[Pinterest/", "Pinterest"),
    ("Twitter for", "Twitter"),
    ("musical_ly", "TikTok"),
    ("BytedanceWebview", "TikTok"),
    ("FBAV/", "Facebook"),
    ("FBAN/", "Facebook"),
    ("Instagram ", "Instagram"),
    ("LinkedInApp", "LinkedIn"),
    ("MicroMessenger/", "WeChat"),
    ("MQQBrowser/", "QQ Browser"),
    ("GSA/", "Google app"),
    ("SeaMonkey/", "SeaMonkey"),
    ("PaleMoon/", "Pale Moon"),
    ("Waterfox/", "Waterfox"),
    ("Konqueror/", "Konqueror"),
    ("Epiphany/", "Epiphany"),
    ("FxiOS/", "Firefox"),
    ("Firefox/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("Chromium/", "Chromium"),
    ("Chrome/", "Chrome"),
    ("MSIE ", "Internet Explorer"),
    ("Trident/", "Internet Explorer"),
    ("Safari/", "Safari"),
    // A web view of an iPhone or iPad app names no browser at all.
    ("Mobile/", "Web view"),
];

fn family(words: &str, families: &Families) -> Option<&'static str> {
    families.iter().find(|(word, _)| words.contains(word)).map(|(_, family)| *family)
}

impl Agent {
    /// Reads a user agent; empty when the request has none.
    pub(crate) fn read(words: &str) -> Agent {
        let os = family(words, SYSTEMS);
        let device = match os {
            Some("iOS") if words.contains("iPad") => Some("tablet"),
            Some("iOS" | "Windows Phone" | "KaiOS" | "BlackBerry" | "Symbian") => Some("mobile"),
            // Android phones say `Mobile`, tablets leave it out.
            Some("Android") if words.contains("Mobile") => Some("mobile"),
            Some("Android") => Some("tablet"),
            Some("Windows" | "macOS" | "ChromeOS" | "Linux" | "FreeBSD" | "OpenBSD") => Some("desktop"),
            _ => None,
        };
        // Android's own browser called itself Safari before there was a Chrome.
        let browser = match (family(words, BROWSERS), os) {
            (Some("Safari"), Some("Android")) => Some("Android"),
            (Some("Safari"), Some("BlackBerry")) => Some("BlackBerry"),
            (browser, _) => browser,
        };
        Agent { device, os, browser }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_families() {
        for (words, device, os, browser) in [
            (
                "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Safari/605.1.15",
                "desktop",
                "macOS",
                "Safari",
            ),
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36 Edg/131.0.0.0",
                "desktop",
                "Windows",
                "Edge",
            ),
            ("Mozilla/5.0 (X11; Linux x86_64; rv:133.0) Gecko/20100101 Firefox/133.0", "desktop", "Linux", "Firefox"),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/131.0 Mobile/15E148 Safari/604.1",
                "mobile",
                "iOS",
                "Chrome",
            ),
            (
                "Mozilla/5.0 (iPad; CPU OS 12_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/12.1 Mobile/15E148 Safari/604.1",
                "tablet",
                "iOS",
                "Safari",
            ),
            (
                "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Mobile Safari/537.36",
                "mobile",
                "Android",
                "Chrome",
            ),
            (
                "Mozilla/5.0 (Linux; Android 13; SM-X906C) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/25.0 Chrome/121.0.0.0 Safari/537.36",
                "tablet",
                "Android",
                "Samsung Internet",
            ),
            (
                "Mozilla/5.0 (Linux; Android 13; CUBOT X70) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0 Mobile Safari/537.36",
                "mobile",
                "Android",
                "Chrome",
            ),
            ("Mozilla/5.0 (Windows NT 6.1; WOW64; Trident/7.0; rv:11.0) like Gecko", "desktop", "Windows", "Internet Explorer"),
        ] {
            let agent = Agent::read(words);
            assert_eq!((agent.device, agent.os, agent.browser), (Some(device), Some(os), Some(browser)), "{words}");
        }
    }

    #[test]
    fn what_is_not_known_is_null() {
        assert_eq!(Agent::read("Something/1.0"), Agent::default());
    }
}
