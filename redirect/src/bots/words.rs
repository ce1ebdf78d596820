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
use super::machines::{MACHINES, NOT_MACHINES, PREVIEWS};
use super::people::PEOPLE;
use aho_corasick::{AhoCorasick, MatchKind};
use std::sync::LazyLock;

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
