//! How much a transaction may hold.
//!
//! # Meaning
//! A transaction must be with the brokers within librdkafka's `message.timeout.ms`, and none of its batches may be larger than the topic takes. After
//! one that was undone the next holds half as much, or an eighth where it was refused for its size, down to a single click; after some that were full and came
//! through, twice as much again. How many that takes doubles each time it was too early, so that a line that is always slow costs a failed transaction in a few
//! hundred.

/// Bytes of clicks in a transaction, about.
pub(super) const MOST: usize = 8 << 20;
/// The least: a click has more, so that it is alone.
const LEAST: usize = 256;
/// Full transactions before a larger one is tried: at first, and at most.
const PATIENCE: u32 = 8;
const MOST_PATIENCE: u32 = 512;

/// The room of the next transaction.
#[derive(Debug)]
pub(super) struct Room {
    bytes: usize,
    /// Full ones since the room last changed.
    full: u32,
    patience: u32,
    /// It last changed because some came through.
    grown: bool,
}

impl Default for Room {
    fn default() -> Room {
        Room { bytes: MOST, full: 0, patience: PATIENCE, grown: false }
    }
}

impl Room {
    /// Bytes after which no further click is taken.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// A transaction was undone, perhaps refused for its size.
    pub(super) fn undone(&mut self, too_large: bool) {
        if std::mem::take(&mut self.grown) {
            self.patience = (self.patience * 2).min(MOST_PATIENCE);
        }
        let part = if too_large { 8 } else { 2 };
        (self.bytes, self.full) = ((self.bytes / part).max(LEAST), 0);
    }

    /// A transaction of so many bytes was committed.
    pub(super) fn committed(&mut self, bytes: usize) {
        if bytes < self.bytes {
            return;
        }
        if self.bytes == MOST {
            // What made it small is over.
            (self.patience, self.grown) = (PATIENCE, false);
            return;
        }
        self.full += 1;
        if self.full >= self.patience {
            (self.bytes, self.full, self.grown) = ((self.bytes * 2).min(MOST), 0, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_shrinks_to_one_click_and_grows_again() {
        let mut room = Room::default();
        (0..40).for_each(|number| room.undone(number % 2 == 0));
        assert_eq!(room.bytes(), LEAST);
        for _ in 0..PATIENCE * 15 {
            room.committed(room.bytes());
        }
        assert_eq!(room.bytes(), MOST);
    }

    #[test]
    fn what_was_not_full_says_nothing() {
        let mut room = Room::default();
        room.undone(false);
        (0..1_000).for_each(|_| room.committed(room.bytes() - 1));
        assert_eq!(room.bytes(), MOST / 2);
    }

    /// On a line that takes no more than a megabyte in the time there is.
    #[test]
    fn a_slow_line_costs_few_failures() {
        let (mut room, mut failed) = (Room::default(), 0);
        for _ in 0..10_000 {
            if room.bytes() > 1 << 20 {
                room.undone(false);
                failed += 1;
            } else {
                room.committed(room.bytes());
            }
        }
        assert!(failed < 40, "{failed} of 10,000");
    }
}
