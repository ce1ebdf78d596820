//! What the C library's allocator gives back to the system.
//!
//! librdkafka takes the memory for a transaction's clicks and frees it, many times a second and in other threads than ours. Left to itself, glibc gives the
//! free end of a heap back each time, and the system finds and clears the same pages for the next transaction.
#![allow(unsafe_code, reason = "the two calls that tell the allocator; they say why they are sound")]

/// Free bytes at the end of a heap that are kept: some transactions' worth.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT: libc::c_int = 16 << 20;
/// What is larger is no part of a heap, and goes back at once; librdkafka's buffers have a megabyte.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const APART: libc::c_int = 4 << 20;

/// Lets heaps keep what is taken again soon.
pub fn keep_some() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: they set two numbers of the allocator, and are called before there is a second thread.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
        libc::mallopt(libc::M_MMAP_THRESHOLD, APART);
    }
}
