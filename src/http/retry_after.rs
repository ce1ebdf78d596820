//! The header `Retry-After`: how long a server asks to be left alone.
//!
//! Pure. RFC 9110 (10.2.3) has two forms: whole seconds, and a date in any of the three forms of its section 5.6.7. A date is meant by the
//! server's clock, which the answer's own `Date` shows: a machine whose clock is wrong waits no longer and no shorter for it. Where there is no
//! such `Date`, the date is compared with the clock of this machine.

use crate::model::time::Ms;
use reqwest::header::{DATE, HeaderMap, HeaderName, RETRY_AFTER};
use std::time::{Duration, UNIX_EPOCH};

/// The longest pause that is believed; HubSpot's longest ends at midnight.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// How long to wait, a day at most; none where the answer does not say it, or asks to come back at once or at a time that has passed. `now` is
/// this machine's clock, ms since the Unix epoch.
pub fn retry_after(headers: &HeaderMap, now: Ms) -> Option<Duration> {
    let text = |name: HeaderName| headers.get(name)?.to_str().ok().map(str::trim);
    let asked = text(RETRY_AFTER)?;
    let pause = if !asked.is_empty() && asked.bytes().all(|byte| byte.is_ascii_digit()) {
        // Digits that are no number of seconds are too many of them.
        Duration::from_secs(asked.parse().unwrap_or(u64::MAX))
    } else {
        let at = httpdate::parse_http_date(asked).ok()?;
        let answered = text(DATE).and_then(|date| httpdate::parse_http_date(date).ok());
        at.duration_since(answered.unwrap_or(UNIX_EPOCH + Duration::from_millis(now))).ok()?
    };
    // "At once" is no pause: repeated at once, a throttled request would be throttled again and again.
    (!pause.is_zero()).then_some(pause.min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use reqwest::header::HeaderValue;

    /// 2026-11-26 22:00:00 UTC.
    const NOW: u64 = 1_795_730_400;

    fn of(asked: &str, date: Option<&str>, now: u64) -> Option<u64> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_bytes(asked.as_bytes()).expect("a value"));
        if let Some(date) = date {
            headers.insert(DATE, HeaderValue::from_bytes(date.as_bytes()).expect("a value"));
        }
        retry_after(&headers, now * 1000).map(|pause| pause.as_secs())
    }

    fn date(at: u64) -> String {
        httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(at))
    }

    #[test]
    fn seconds_and_all_three_forms_of_a_date_are_read() {
        assert_eq!(date(NOW), "Thu, 26 Nov 2026 22:00:00 GMT");
        let forms = ["90", " 90 ", "Thu, 26 Nov 2026 22:01:30 GMT", "Thursday, 26-Nov-26 22:01:30 GMT", "Thu Nov 26 22:01:30 2026"];
        assert_eq!(forms.map(|form| of(form, None, NOW)), [Some(90); 5]);
        assert_eq!(retry_after(&HeaderMap::new(), NOW * 1000), None);
    }

    #[test]
    fn what_is_no_pause_is_none_and_none_is_longer_than_a_day() {
        for none in ["0", "", "-1", "1.5", "+3", "soon", "Thu, 26 Nov 2026", "Thu, 32 Nov 2026 22:01:30 GMT", &date(NOW), &date(NOW - 90)] {
            assert_eq!(of(none, None, NOW), None, "{none:?}");
        }
        for long in ["86401", "999999999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT"] {
            assert_eq!(of(long, None, NOW), Some(86_400), "{long:?}");
        }
    }

    #[test]
    fn a_date_is_meant_by_the_servers_clock() {
        let asked = date(NOW + 30);
        for here in [NOW, NOW - 7_200, NOW + 7_200] {
            assert_eq!(of(&asked, Some(&date(NOW)), here), Some(30), "whatever the clock here says");
        }
        assert_eq!(of(&asked, Some("yesterday"), NOW), Some(30), "a date that is none");
    }

    proptest! {
        /// No header makes it panic; a date that the server writes is waited for to the second.
        #[test]
        fn any_header_is_read(asked in "\\PC{0,40}", dated in prop::option::of("\\PC{0,40}"), ahead in 1u64..86_400, at in 0u64..4_000_000_000, here in any::<u64>()) {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_bytes(asked.as_bytes()).expect("no control characters"));
            if let Some(dated) = dated {
                headers.insert(DATE, HeaderValue::from_bytes(dated.as_bytes()).expect("no control characters"));
            }
            if let Some(pause) = retry_after(&headers, here) {
                prop_assert!(!pause.is_zero() && pause <= LONGEST);
            }
            prop_assert_eq!(of(&date(at + ahead), Some(&date(at)), NOW), Some(ahead));
        }
    }
}
