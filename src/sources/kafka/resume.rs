//! Where a restart takes the log up.

use crate::model::time::Ms;
use crate::sources::{Kind, Offsets};

/// Where a restart takes the log up.
#[derive(Clone, Debug, Default)]
pub struct Resume {
    /// Clicks that were appended before this are not needed, ms since the epoch.
    pub clicks_from: Ms,
    /// The same for forms.
    pub forms_from: Ms,
    /// What had not been read when the job stopped.
    pub offsets: Offsets,
    /// Ticks that end before this do not need what had not been read, ms.
    pub frontier: Ms,
    /// Whether to go on without records that were deleted unread.
    pub accept_gaps: bool,
}

impl Resume {
    /// Records of `kind` that were appended before this are not needed; 0 for a topic that is needed whole.
    pub fn from(&self, kind: Kind) -> Ms {
        match kind {
            Kind::Clicks => self.clicks_from,
            Kind::Forms => self.forms_from,
            Kind::Contacts | Kind::Deals => 0,
        }
    }

    /// The first offset of a partition that no committed tick needs; `None` where nothing is known of the topic.
    pub(super) fn unread(&self, kind: Kind, partition: i32) -> Option<i64> {
        let of = self.offsets.get(&kind).filter(|of| !of.is_empty())?;
        Some(of.get(&partition).copied().unwrap_or(0))
    }
}
