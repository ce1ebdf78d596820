//! The little HTTP that a redirect needs: heads in, short answers out.

mod request;
mod response;

pub(crate) use request::{Head, MAX_HEAD, Method, Parsed, Reader};
pub(crate) use response::{Answer, DateLine};
