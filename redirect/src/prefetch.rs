//! A word to the processor about memory that will be read soon.
//!
//! # Meaning
//! A look at memory that is far away holds up what follows it; a prefetch does not: the processor goes on, and finds the memory near when it gets there. It
//! changes nothing that a program can see. Elsewhere than on x86-64 and ARM64 nothing happens.
#![allow(unsafe_code, reason = "the one instruction, which has no safe form in stable Rust; each says why it is sound")]

/// Begins to bring the cache line in which `place` begins into the processor's caches.
#[inline]
pub(crate) fn prefetch<T: ?Sized>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: it reads nothing into the program, and an address of any kind is allowed; this one is valid, too.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(place).cast()) };
    }
    // SAFETY: it changes no register and no memory, and an address of any kind is allowed.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{}]", in(reg) std::ptr::from_ref(place).cast::<u8>(), options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = place;
}
