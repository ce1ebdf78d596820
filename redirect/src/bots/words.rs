//! Machines that say so in their user agent.
//!
//! # Meaning
//! - A user agent that is empty is a machine's.
//! - So is one with a word of [`PREVIEWS`] or [`MACHINES`]: what link previews of chats, crawlers, mail scanners, monitors and HTTP libraries call
//!   themselves. The words are our own reading of these programs' documents.
//! - So is one with a web address in it: operators of machines leave one for complaints, browsers have no reason to.
//! - So is one that names neither a system nor a browser that people use ([`PEOPLE`]): `ExampleFetch/1.0`.
//!
//! Machines that pretend to be browsers aren't found here.
//!
//! # Ties and edges
//! Compared without case; previews come before other machines. A word that a person's device or app may hold isn't on the list (`scan`: readers
//! of QR codes), or has its exception in [`NOT_MACHINES`]: a click that is wrongly a machine's is lost for good. `src/lists_tests.rs` measures both sides.

use super::Reason;
use aho_corasick::{AhoCorasick, MatchKind};
use std::sync::LazyLock;

/// Programs that fetch a link because somebody has written it to somebody else.
const PREVIEWS: &[&str] = &[
    "slackbot",
    "slack-imgproxy",
    "skypeuripreview",
    "microsoftpreview",
    "whatsapp",
    "telegrambot",
    "twitterbot",
    "linkedinbot",
    "facebookexternalhit",
    "facebookcatalog",
    "facebot",
    "meta-external",
    "discordbot",
    "pinterestbot",
    "redditbot",
    "line-poker",
    "kakaotalk-scrap",
    "snap url preview",
    "snapchatads",
    "vkshare",
    "odklbot",
    "mastodon/",
    "cardyb",
    "embedly",
    "iframely",
    "bitlybot",
    "bitrix link preview",
    "mattermost",
    "rocket.chat",
    "synapse",
    "unfurl",
    "zoombot",
    "steamchaturllookup",
    "nextcloud server",
    "google-pagerenderer",
    "urlpreview",
    "linkpreview",
    "link preview",
    "opengraph",
];

/// All other machines.
const MACHINES: &[&str] = &[
    // What they are.
    "bot",
    "crawl",
    "spider",
    "slurp",
    "scrap",
    "archiv",
    "fetcher",
    "monitor",
    "uptime",
    "preview",
    "validator",
    "checker",
    "linkcheck",
    "check_http",
    "scanner",
    "scanning",
    "indexer",
    "feedparser",
    "feedburner",
    "feeder.co",
    "imageproxy",
    "synthetic",
    "headless",
    "security research",
    "survey",
    "observatory",
    "semantic",
    "searchengine",
    "mailto:",
    "gecko; compatible",
    "-user/",
    // Search, advertising and archives.
    "mediapartners",
    "google-read-aloud",
    "googleother",
    "google-inspectiontool",
    "google-ads",
    "google favicon",
    "google search console",
    "google page speed",
    "googledocs",
    "duplexweb",
    "playstore-google",
    "apis-google",
    "feedfetcher",
    "heritrix",
    "httrack",
    "sitesucker",
    "webcapture",
    "netcraft",
    "datanyze",
    "siteimprove",
    // Mail and web filters.
    "barracuda",
    "mimecast",
    "proofpoint",
    "fortimail",
    "safelinks",
    "symantec",
    "trendmicro",
    "clamav",
    "cryptoapi",
    // Browsers that a program drives, and services that measure pages.
    "phantomjs",
    "selenium",
    "webdriver",
    "playwright",
    "puppeteer",
    "cypress/",
    "electron-fetch",
    "lighthouse",
    "pagespeed",
    "gtmetrix",
    "ptst/",
    "pingdom",
    "catchpoint",
    "gomezagent",
    "statuscake",
    "site24x7",
    "thousandeyes",
    "dareboost",
    "dejaclick",
    "rigor)",
    "rigor;",
    "ghost inspector",
    "securityheaders",
    "appinsights",
    "httpagent",
    // Attackers' tools.
    "nikto",
    "acunetix",
    "openvas",
    "nessus",
    "sqlmap",
    "masscan",
    "nmap",
    "zgrab",
    "burpcollaborator",
    // Libraries.
    "curl/",
    "wget/",
    "libwww",
    "lwp::",
    "python-",
    "python/",
    "aiohttp",
    "httpx",
    "httpclient",
    "http client",
    "go-http-client",
    "java/",
    "okhttp",
    "axios",
    "node-fetch",
    "undici",
    "got (",
    "faraday",
    "httparty",
    "rest-client",
    "grpc-",
    "guzzle",
    "php/",
    "reqwest",
    "hyper/",
    "postman",
    "insomnia",
    "powershell",
    "logic-apps",
    // An address.
    "http://",
    "https://",
    "www.",
];

/// Where a word means something else: a phone maker, a reader of documents and a television service whose names hold one, a text browser's library, a
/// developer's extension, phones with Java applications, and old browsers and phones that give their maker's address.
const NOT_MACHINES: &[&str] = &[
    "cubot",
    "motobot",
    "fubotv",
    "camscanner",
    "libwww-fm",
    "firephp/",
    "java/asvm",
    "http://bsalsa.com",
    "http://www.bsalsa.com",
    "http://www.sonyericsson.com/uaprof",
];

/// Systems and browsers of people, old phones and game consoles included; in lower case.
pub(super) const PEOPLE: &[&str] = &[
    "windows",
    "win9",
    "winnt",
    "win32",
    "win16",
    "iphone",
    "ipad",
    "ipod",
    "ios",
    "android",
    "cros ",
    "macintosh",
    "mac os",
    "mac_p",
    "macos",
    "darwin",
    "appletv",
    "apple tv",
    "watchos",
    "tizen",
    "kaios",
    "linux",
    "x11",
    "bsd",
    "sunos",
    "solaris",
    "irix",
    "hp-ux",
    "aix",
    "os/2",
    "beos",
    "haiku",
    "qnx",
    "amiga",
    "morphos",
    "risc os",
    "openvms",
    "inferno",
    "syllable",
    "ubuntu",
    "cygwin",
    "sailfish",
    "meego",
    "maemo",
    "bada",
    "brew",
    "webos",
    "hpwos",
    "symbian",
    "symbos",
    "series60",
    "series40",
    "series 60",
    "nokia",
    "blackberry",
    "bb10",
    "playbook",
    "rim tablet",
    "palm",
    "j2me",
    "midp",
    "cldc",
    "samsung",
    "sonyericsson",
    "ericsson",
    "lg-",
    "lg/",
    "mot-",
    "htc",
    "sch-",
    "huawei",
    "zte",
    "alcatel",
    "sharp",
    "sagem",
    "sanyo",
    "siemens",
    "panasonic",
    "docomo",
    "kddi",
    "softbank",
    "vodafone",
    "j-phone",
    "up.browser",
    "ucweb",
    "ucbrowser",
    "obigo",
    "netfront",
    "polaris",
    "dorado",
    "maui",
    "jig browser",
    "teleca",
    "kindle",
    "crkey",
    "roku",
    "smarttv",
    "smart-tv",
    "playstation",
    "nintendo",
    "xbox",
    "tesla",
    "dalvik",
    "cfnetwork",
    "chrome/",
    "safari/",
    "firefox",
    "msie ",
    "trident/",
    "edge/",
    "opera",
    "opr/",
    "konqueror",
    "khtml",
    "seamonkey",
    "camino",
    "netscape",
    "mosaic",
    "k-meleon",
    "epiphany",
    "dillo",
    "lynx",
    "links (",
    "w3m",
    "icedragon",
    "abrowse",
    "ibrowse",
    "elinks",
    "netsurf",
    "omniweb",
    "galeon",
    "aweb",
    "duckduckgo/",
    "googleapp",
    "mobile",
];

struct Words {
    machines: AhoCorasick,
    people: AhoCorasick,
}

static WORDS: LazyLock<Words> = LazyLock::new(|| {
    // The exceptions first: at the same place the longest or first of them hides the word within it.
    let machines: Vec<&str> = NOT_MACHINES.iter().chain(PREVIEWS).chain(MACHINES).copied().collect();
    let build = |words: &[&str]| {
        AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::Standard)
            .build(words)
            .expect("a short list of words fits the automaton's limits")
    };
    Words { machines: build(&machines), people: build(PEOPLE) }
});

/// Why a user agent is a machine's, if it says so.
pub(crate) fn says(words: &str) -> Option<Reason> {
    if words.trim().is_empty() {
        return Some(Reason::UserAgent);
    }
    let mut machine = false;
    // Exceptions reach to here.
    let mut hidden = Vec::new();
    let found: Vec<_> = WORDS.machines.find_overlapping_iter(words).collect();
    for found in &found {
        if found.pattern().as_usize() < NOT_MACHINES.len() {
            hidden.push(found.range());
        }
    }
    for found in &found {
        let number = found.pattern().as_usize();
        let excepted = number < NOT_MACHINES.len() || hidden.iter().any(|range| range.start <= found.start() && found.end() <= range.end);
        if !excepted {
            if number < NOT_MACHINES.len() + PREVIEWS.len() {
                return Some(Reason::LinkPreview);
            }
            machine = true;
        }
    }
    (machine || !WORDS.people.is_match(words)).then_some(Reason::UserAgent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_that_say_so() {
        for words in [
            "",
            " ",
            "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/131.0.0.0 Safari/537.36",
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/100.0.0.0 Safari/537.36 +https://example.com",
            "curl/8.9.1",
            "python-requests/2.32",
            "Go-http-client/2.0",
            "Something/1.0",
            "Mozilla/5.0 (Linux; Android 13; CUBOT X70) ExampleBot/1.0",
        ] {
            assert_eq!(says(words), Some(Reason::UserAgent), "{words}");
        }
    }

    #[test]
    fn previews_of_chats() {
        for words in [
            "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)",
            "Mozilla/5.0 (Windows NT 6.1; WOW64) SkypeUriPreview Preview/0.5 skype-url-preview@microsoft.com",
            "facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)",
            "WhatsApp/2.23.20.0",
            "TelegramBot (like TwitterBot)",
            "Mozilla/5.0 (compatible; Discordbot/2.0; +https://discordapp.com)",
            "LinkedInBot/1.0 (compatible; Mozilla/5.0; Apache-HttpClient +http://www.linkedin.com)",
        ] {
            assert_eq!(says(words), Some(Reason::LinkPreview), "{words}");
        }
    }

    #[test]
    fn people() {
        for words in [
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Safari/605.1.15",
            "Mozilla/5.0 (Linux; Android 13; CUBOT X70) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0 Mobile Safari/537.36",
            "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 Instagram 330.0",
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Teams/24.1 Chrome/120.0 Electron/28.0 Safari/537.36",
            "Lynx/2.9.0dev.6 libwww-FM/2.14 SSL-MM/1.4.1 OpenSSL/1.1.1j-dev",
            "Nokia6280/2.0 (03.60) Profile/MIDP-2.0 Configuration/CLDC-1.1",
        ] {
            assert_eq!(says(words), None, "{words}");
        }
    }

    #[test]
    fn the_lists_are_in_lower_case_and_without_repeats() {
        let all: Vec<&str> = NOT_MACHINES.iter().chain(PREVIEWS).chain(MACHINES).chain(PEOPLE).copied().collect();
        assert!(all.iter().all(|word| *word == word.to_ascii_lowercase() && !word.is_empty()));
        assert_eq!(all.iter().collect::<std::collections::HashSet<_>>().len(), all.len());
    }
}
