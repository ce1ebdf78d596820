//! Where a restart takes the log up.

use super::reached::{AllKnown, Known};
use crate::model::time::Ms;
use crate::sources::{Kind, Offsets};
use std::sync::Arc;

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
    /// The same as `clicks_from` for what was computed before: windows that are longer than any of then may begin where the topic does.
    pub clicks_counted_from: Ms,
    /// The same for forms.
    pub forms_counted_from: Ms,
    /// When records were taken whose log does not say it.
    pub reached: Arc<AllKnown>,
    /// How long such notes are kept, ms; `None`: for ever.
    pub notes_kept: Option<Ms>,
    /// Whether to go on without records that were deleted before they were read, or read as often as they are needed.
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

    /// Records of `kind` that were taken at this time or later were counted before, and must be there again; `None` for a topic that is needed
    /// whole, and at a first start.
    pub(super) fn counted_from(&self, kind: Kind) -> Option<Ms> {
        match kind {
            _ if self.frontier == 0 => None,
            Kind::Clicks => Some(self.clicks_counted_from),
            Kind::Forms => Some(self.forms_counted_from),
            Kind::Contacts | Kind::Deals => None,
        }
    }

    /// What is known of a partition beside its log.
    pub(super) fn known(&self, kind: Kind, partition: i32) -> Known {
        self.reached.get(&kind).and_then(|of| of.get(&partition)).cloned().unwrap_or_default()
    }

    /// The first offset that was taken at the time from which on records are needed, or later, by what is known beside the log: it may have been
    /// appended before.
    pub(super) fn taken_from(&self, kind: Kind, partition: i32) -> Option<i64> {
        let known = self.reached.get(&kind)?.get(&partition)?;
        known.iter().find(|(_, log_time)| **log_time >= self.from(kind)).map(|(offset, _)| *offset)
    }
}
