//! Large pages for memory that is looked at here and there.
//!
//! # Meaning
//! A table of a million links has 300 MB; in pages of 4 KiB nearly every look at it first waits for the page table, which a virtual machine looks up in
//! another one. Linux can put what lies in 2 MiB into one page (`MADV_COLLAPSE`, Linux 6.1), whatever allocator it came from and at once; the thread that
//! made the table does that before anybody looks at it. So it is for the table of bursts.
//!
//! # Edges
//! Where the system has switched large pages off, or has none to spare, or is older, everything stays as it was.
#![allow(unsafe_code, reason = "the one call that rustix doesn't have; it says why it is sound")]

use std::collections::BTreeMap;
use std::ops::Range;

/// A large page on x86-64, and on ARM with pages of 4 KiB.
const LARGE: usize = 2 << 20;
/// So much of a large page must be what is to be enlarged: what lies between is then in memory, too.
const FILLED: usize = LARGE / 2;
/// Linux's number for it; libc has it for glibc alone.
#[cfg(target_os = "linux")]
const MADV_COLLAPSE: libc::c_int = 25;

/// Puts the memory at these addresses into large pages where it fills them by half.
pub(crate) fn enlarge(memory: impl Iterator<Item = Range<usize>>) {
    let pages = filled(memory);
    if pages.is_empty() || switched_off() {
        return;
    }
    let taken = pages.iter().filter(|page| collapse(**page)).count();
    tracing::debug!(event = "large_pages", taken, of = pages.len(), "memory that is looked at here and there is in large pages");
}

/// The large pages that the ranges fill by half, by their addresses.
fn filled(memory: impl Iterator<Item = Range<usize>>) -> Vec<usize> {
    let mut bytes: BTreeMap<usize, usize> = BTreeMap::new();
    for Range { mut start, end } in memory {
        while start < end {
            let page = start & !(LARGE - 1);
            let next = (page + LARGE).min(end);
            *bytes.entry(page).or_default() += next - start;
            start = next;
        }
    }
    bytes.into_iter().filter(|(_, filled)| *filled >= FILLED).map(|(page, _)| page).collect()
}

/// Whether the system's administrator wants no large pages.
fn switched_off() -> bool {
    std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").is_ok_and(|text| text.contains("[never]"))
}

#[cfg(target_os = "linux")]
fn collapse(page: usize) -> bool {
    // SAFETY: the kernel moves what lies there and changes none of it, in one step for whoever looks; addresses that are nobody's are an error to it.
    unsafe { libc::madvise(std::ptr::without_provenance_mut(page), LARGE, MADV_COLLAPSE) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn collapse(_: usize) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_taken_that_are_filled_by_half() {
        let half = LARGE / 2;
        let ranges = [
            // The second half of page 1 and all of page 2.
            LARGE + half..3 * LARGE,
            // Page 4, in two pieces of which one begins before it.
            4 * LARGE - 10..4 * LARGE + half - 1,
            5 * LARGE - 1..5 * LARGE,
            // Too little of page 7.
            7 * LARGE..7 * LARGE + half - 1,
            9 * LARGE..9 * LARGE,
        ];
        assert_eq!(filled(ranges.into_iter()), [LARGE, 2 * LARGE, 4 * LARGE]);
    }

    /// Whether the system does it or not: what lies there stays what it was.
    #[test]
    fn memory_stays_what_it_was() {
        let memory: Vec<u64> = (0..1 << 20).collect();
        let Range { start, end } = memory.as_ptr_range();
        enlarge(std::iter::once(start.addr()..end.addr()));
        assert!(memory.iter().zip(0..).all(|(item, number)| *item == number));
    }
}
