//! The records that cross the job's borders: what it reads and what it writes.
//!
//! `inputs` are read tolerantly (unknown fields are ignored, every reason for refusal has a code),
//! `outputs` are written exactly. Both are the JSON of `docs/topics.md`.

pub mod as_written;
pub mod click_id;
pub mod click_view;
pub mod inputs;
pub mod named;
pub mod outputs;
pub mod packed_click;
pub mod reason;
pub mod time;

pub use click_id::ClickId;
pub use click_view::ClickView;
pub use inputs::{Click, Contact, Deal, Form, Refusal, Utm, UtmField};
pub use named::Named;
pub use packed_click::PackedClick;
pub use time::Ms;
