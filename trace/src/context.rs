//! Which trace a click is, and whether it is sampled.
//!
//! Sampling is OpenTelemetry's consistent probability sampling: the trace's last 56 bits are its random number, as W3C's Trace Context has it, and
//! it is kept where that is not below a threshold. So a part with a smaller ratio keeps a subset of what the others keep. In a UUID of version 7, as
//! the redirect server makes them, these bits are random.

use uuid::Uuid;

/// Bits that decide.
const RANDOM_BITS: u32 = 56;

/// The trace of a click.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Trace([u8; 16]);

impl Trace {
    /// The trace of the click with this id: the id itself where it is a UUID, else one that follows from it.
    pub fn of(click: &str) -> Trace {
        let own = Uuid::try_parse(click).ok().filter(|id| !id.is_nil());
        Trace(own.unwrap_or_else(|| Uuid::new_v5(&Uuid::NAMESPACE_OID, click.as_bytes())).into_bytes())
    }

    /// The id, as W3C's Trace Context has it.
    pub fn bytes(self) -> [u8; 16] {
        self.0
    }

    /// The id of the span of this name in this trace. Never 0, which stands for none.
    pub fn span(self, name: &str) -> u64 {
        let of = Uuid::new_v5(&Uuid::from_bytes(self.0), name.as_bytes());
        of.as_u64_pair().0.max(1)
    }

    /// Whether it is among the `ratio` of all traces that are kept.
    pub fn sampled(self, ratio: Ratio) -> bool {
        let random = u128::from_be_bytes(self.0) & ((1 << RANDOM_BITS) - 1);
        random >= u128::from(ratio.threshold)
    }
}

/// Which share of the traces is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratio {
    /// Random numbers below it are dropped.
    threshold: u64,
}

impl Ratio {
    /// A share from 0, none, to 1, all of them; `None` for any other number.
    pub fn of(share: f64) -> Option<Ratio> {
        let all = 1_u64 << RANDOM_BITS;
        // Exact enough: a double has 53 bits.
        (0.0..=1.0).contains(&share).then(|| Ratio { threshold: all - (share * all as f64) as u64 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_click_of_the_redirect_server_is_its_trace_and_any_other_has_one() {
        let id = "0199f3c2-7c1e-7d2a-b0a1-2f6f3c9d1e10";
        assert_eq!(Trace::of(id).bytes(), *Uuid::try_parse(id).expect("a UUID").as_bytes());
        // What W3C calls invalid.
        assert_ne!(Trace::of("00000000-0000-0000-0000-000000000000").bytes(), [0; 16]);
        assert_eq!(Trace::of("c17"), Trace::of("c17"));
        assert_ne!(Trace::of("c17"), Trace::of("c18"));
        assert_ne!(Trace::of(id).span("redirect"), Trace::of(id).span("resolve 1"));
    }

    #[test]
    fn a_tenth_is_a_tenth_of_the_redirect_servers_ids_and_of_others() {
        let tenth = Ratio::of(0.1).expect("a ratio");
        let kept = |traces: &[Trace]| traces.iter().filter(|trace| trace.sampled(tenth)).count();
        let v7: Vec<Trace> = (0..20_000_u64)
            .map(|n| {
                let random = Uuid::new_v5(&Uuid::NAMESPACE_URL, &n.to_be_bytes()).into_bytes();
                let bytes = std::array::from_fn(|at| random[at]);
                Trace(uuid::Builder::from_unix_timestamp_millis(1_700_000_000_000 + n, &bytes).into_uuid().into_bytes())
            })
            .collect();
        let others: Vec<Trace> = (0..20_000).map(|n| Trace::of(&format!("c{n}"))).collect();
        // Ten standard deviations of a fair coin; the ids are always the same.
        for of in [v7, others] {
            assert!((1_576..=2_424).contains(&kept(&of)), "{} of 20,000", kept(&of));
        }
    }

    proptest! {
        #[test]
        fn whoever_keeps_fewer_keeps_some_of_what_others_keep(id in ".*", less in 0.0..=1.0, more in 0.0..=1.0) {
            let (less, more) = if less <= more { (less, more) } else { (more, less) };
            let trace = Trace::of(&id);
            let sampled = |share| trace.sampled(Ratio::of(share).expect("a ratio"));
            prop_assert!(!sampled(less) || sampled(more));
            prop_assert!(sampled(1.0) && !sampled(0.0));
        }
    }

    #[test]
    fn no_other_number_is_a_share() {
        for wrong in [-0.1, 1.000_001, f64::NAN, f64::INFINITY] {
            assert_eq!(Ratio::of(wrong), None, "{wrong}");
        }
    }
}
