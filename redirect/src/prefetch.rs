//! A word to the processor about memory that will be read soon.
//!
//! # Meaning
//! A look at memory that is far away holds up what follows it; a prefetch does not: the processor goes on, and finds the memory near when it gets there. It
//! changes nothing that a program can see. Elsewhere than on x86-64 nothing happens.
#![allow(unsafe_code, reason = "the one instruction, which has no safe form in stable Rust; it says why it is sound")]

/// Begins to bring the cache line in which `place` begins into the processor's caches.
#[inline]
pub(crate) fn prefetch<T: ?Sized>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: it reads nothing into the program, and an address of any kind is allowed; this one is valid, too.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(place).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}
