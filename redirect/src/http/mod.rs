//! The little HTTP that a redirect needs: heads in, short answers out.

mod client;
mod host;
pub(crate) mod proxy_protocol;
mod request;
mod response;

pub(crate) use client::Proxies;
pub(crate) use host::push_plain as push_host;
pub(crate) use request::{Head, MAX_HEAD, Method, Parsed, Reader};
pub(crate) use response::{Answer, DateLine};
