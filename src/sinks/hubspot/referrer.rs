//! The page that a visitor came from, as far as it may leave for HubSpot: where it is, and not who was there.
//!
//! Pure. Whoever wrote that page's address put into it what he liked: a mail archive the reader's address, a shop a session. HubSpot
//! shows a contact's timeline to everybody in the account, and another contact's address has no place there. So what follows `?` or `#`
//! stays here, as do a user's name before the host and a path with an e-mail address in it. The click on its topic and in ClickHouse is
//! as it was.

/// The part of a referrer that leaves; empty when none may.
pub fn public(referrer: &str) -> String {
    let bare = referrer.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = bare.split_once("://") else {
        return if address(bare) { String::new() } else { bare.to_owned() };
    };
    let (authority, path) = rest.split_at(rest.find(['/', '\\']).unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if address(scheme) || address(host) {
        return String::new();
    }
    let path = match path {
        path if !address(path) => path,
        _ => "/",
    };
    format!("{scheme}://{host}{path}")
}

/// Whether a text may hold an e-mail address. However often it was percent-encoded on its way, its `@` ends in `40`.
fn address(text: &str) -> bool {
    text.contains('@') || text.match_indices('%').any(|(at, _)| text[at + 1..].trim_start_matches("25").starts_with("40"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn where_it_is_and_not_who_was_there() {
        for (whole, part) in [
            ("https://mail.example/inbox/7?u=ada@example.com#top", "https://mail.example/inbox/7"),
            ("https://mail.example/inbox#ada@example.com", "https://mail.example/inbox"),
            ("https://ada@example.com:secret@mail.example/inbox", "https://mail.example/inbox"),
            ("https://lists.example/u/ada@example.com/posts", "https://lists.example/"),
            ("https://lists.example/u/ada%40example.com", "https://lists.example/"),
            ("https://lists.example/u/ada%252540example.com", "https://lists.example/"),
            ("https://r.example", "https://r.example"),
            ("https://r.example/%E2%82%AC/a%20b", "https://r.example/%E2%82%AC/a%20b"),
            ("android-app://com.google.android.gm/", "android-app://com.google.android.gm/"),
            ("mailto:ada@example.com", ""),
            ("about:blank", "about:blank"),
            ("", ""),
        ] {
            assert_eq!(public(whole), part, "{whole}");
        }
    }

    proptest! {
        /// Whatever is around it, no address gets out.
        #[test]
        fn no_address_gets_out(before in "[a-z:/?#@%.]{0,20}", at in "(@|%40|%2540|%252540)", after in "[a-z:/?#@%.]{0,20}") {
            let left = public(&format!("{before}ada{at}example.com{after}"));
            prop_assert!(!left.contains("ada@example.com") && !left.contains(&format!("ada{at}example.com")), "{left}");
        }
    }
}
