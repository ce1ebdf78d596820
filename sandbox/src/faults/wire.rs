//! How an answer goes over the connection.

use super::alter::Answer;
use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream;
use std::io::{self, Write};
use std::time::Duration;
use tokio::time::sleep;

/// Pause before a body breaks off.
const CUT_AFTER: Duration = Duration::from_millis(20);

/// The way an answer is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    Whole,
    /// Not at all: the connection is closed after this time.
    Close {
        after_ms: u64,
    },
    Late {
        ms: u64,
    },
    Dribble {
        bytes: usize,
        every_ms: u64,
    },
    Truncate {
        bytes: usize,
    },
    Endless,
    Bomb {
        bytes: u64,
    },
}

/// On a response: the server is to close the connection instead of sending it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HangUp;

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "cut off by a scripted fault")
}

impl Wire {
    /// Sends an answer. Waits where the wire is slow.
    pub async fn send(self, answer: Option<Answer>) -> Response {
        let Some(Answer { status, mut headers, body }) = answer else {
            if let Self::Close { after_ms } = self {
                sleep(Duration::from_millis(after_ms)).await;
            }
            let mut response = StatusCode::INTERNAL_SERVER_ERROR.into_response();
            response.extensions_mut().insert(HangUp);
            return response;
        };
        let length = HeaderValue::from(body.len());
        let body = match self {
            Self::Whole | Self::Close { .. } => Body::from(body),
            Self::Late { ms } => {
                sleep(Duration::from_millis(ms)).await;
                Body::from(body)
            }
            Self::Dribble { bytes, every_ms } => {
                headers.insert(header::CONTENT_LENGTH, length);
                dribble(body, bytes, Duration::from_millis(every_ms))
            }
            Self::Truncate { bytes } => {
                headers.insert(header::CONTENT_LENGTH, length);
                truncate(body.slice(..bytes.min(body.len())))
            }
            Self::Endless => endless(&body),
            Self::Bomb { bytes } => {
                headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                Body::from(bomb(bytes))
            }
        };
        let mut response = (status, body).into_response();
        *response.headers_mut() = headers;
        response
    }
}

/// A body that breaks off. The pause lets what there is of it go out first.
fn truncate(start: Bytes) -> Body {
    Body::from_stream(stream::unfold(Some(start), |start| async move {
        if start.is_none() {
            sleep(CUT_AFTER).await;
        }
        Some((start.ok_or_else(broken), None))
    }))
}

fn dribble(body: Bytes, bytes: usize, pause: Duration) -> Body {
    Body::from_stream(stream::unfold(body, move |mut rest| async move {
        if rest.is_empty() {
            return None;
        }
        sleep(pause).await;
        let piece = rest.split_to(bytes.min(rest.len()));
        Some((Ok::<_, io::Error>(piece), rest))
    }))
}

/// The body without its last byte, and then white space for ever: JSON that is never complete.
fn endless(body: &Bytes) -> Body {
    let start = body.slice(..body.len().saturating_sub(1));
    let filler = Bytes::from(vec![b' '; 16 * 1024]);
    Body::from_stream(stream::unfold(Some(start), move |start| {
        let filler = filler.clone();
        async move {
            if start.is_none() {
                // Fast enough to fill a memory without a bound, slow enough to leave the machine alone.
                sleep(Duration::from_millis(1)).await;
            }
            Some((Ok::<_, io::Error>(start.unwrap_or(filler)), None))
        }
    }))
}

/// gzip of so many spaces.
fn bomb(bytes: u64) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let block = [b' '; 64 * 1024];
    let mut left = bytes;
    while left > 0 {
        let size = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
        // Writing to memory cannot fail.
        let _ = encoder.write_all(&block[..size]);
        left -= size as u64;
    }
    encoder.finish().unwrap_or_default()
}
