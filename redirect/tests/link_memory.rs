//! What a link costs in memory beside its strings, and what a reload costs: counted by the allocator, not estimated.
//!
//! `LINKS=1000000` measures a million (two minutes with a debug build); the figures in the README are from that.
#![allow(unsafe_code, reason = "an allocator that counts is unsafe by its trait")]

use clickline_redirect::LinkFile;
use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Write as _;
use std::io::{BufWriter, Write as _};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bytes that are allocated now, and the most there were since [`measure`] began.
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: everything is passed on to the system's allocator as it came; the counting touches nothing of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn grown(size: usize) {
    PEAK.fetch_max(LIVE.fetch_add(size, Relaxed) + size, Relaxed);
}

/// What `make` makes, the bytes that it holds, and the most that were held meanwhile beyond those before.
fn measure<T>(make: impl FnOnce() -> T) -> (T, usize, usize) {
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let made = make();
    (made, LIVE.load(Relaxed) - before, PEAK.load(Relaxed) - before)
}

#[test]
fn a_link_costs_little_beside_its_strings() {
    let count: usize = std::env::var("LINKS").ok().and_then(|text| text.parse().ok()).unwrap_or(50_000);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("links.jsonl");
    let mut out = BufWriter::new(std::fs::File::create(&path).expect("a file"));
    let (mut strings, mut line) = (0, String::new());
    for number in 0..count {
        let (domain, slug, workspace) = (format!("d{}.example", number % 50), format!("s{number:x}"), format!("w{}", number % 50));
        let destination = format!("https://shop{}.example/products/{number}?utm_source=site&utm_medium=email#top", number % 1_000);
        let (title, tags, deal) =
            (format!("Product number {number}"), ["sales-collateral", "catalogue"], format!("{}", 9_000_000 + number));
        strings += domain.len() + 1 + slug.len() + workspace.len() + destination.len() + title.len() + deal.len();
        strings += tags.iter().map(|tag| tag.len()).sum::<usize>();
        line.clear();
        writeln!(
            line,
            r#"{{"domain":"{domain}","slug":"{slug}","workspace":"{workspace}","destination":"{destination}","title":"{title}","tags":["{}","{}"],"deal_id":"{deal}","expires":1893456000000}}"#,
            tags[0], tags[1],
        )
        .expect("a String takes everything");
        out.write_all(line.as_bytes()).expect("written");
    }
    drop(out);
    let read = || LinkFile::read(&path, &[]).expect("lines").without_problems(&path).expect("good links");
    let (first, held, peak) = measure(read);
    assert_eq!(first.len(), count);
    let beside = (held - strings) as f64 / count as f64;
    println!(
        "{count} links: {} bytes of strings and {beside:.1} bytes beside them each; peak {:.3}",
        strings / count,
        peak as f64 / held as f64
    );
    assert!(beside <= 200.0, "{beside} bytes a link beside its strings");
    // While a reload reads, the old table and the new one are there, and next to nothing else.
    let next = || first.read_next(&path, &[]).expect("lines").without_problems(&path).expect("good links");
    let (second, _, peak) = measure(next);
    assert_eq!(second.len(), count);
    let most = (held + peak) as f64 / held as f64;
    println!("a reload holds {most:.3} times the table at most");
    // The reading buffer and the line at hand.
    assert!(held + peak <= 2 * held + 256 * 1024, "{most} times the table during a reload");
}
