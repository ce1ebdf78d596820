//! What an answer of ClickHouse's means: try again, look at the rows, or wait for somebody.
//!
//! The code is that of `X-ClickHouse-Exception-Code`; HTTP's status says less. A code that is not in the table is tried again: waiting
//! loses nothing, a wrong dead letter does.

/// What to do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// It passes by itself, or once somebody gives room: the same batch again, later.
    Transient,
    /// A row is to blame: smaller batches find it.
    Rows,
    /// Tables, rights or settings are not as they must be: the same batch again, and somebody is told.
    Setup,
}

impl Class {
    /// The word for logs and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Class::Transient => "transient",
            Class::Rows => "rows",
            Class::Setup => "setup",
        }
    }
}

/// The class of an exception code; `None`: no answer of ClickHouse's at all (connection, time-out, a proxy's page).
pub fn classify(code: Option<u32>) -> Class {
    match code {
        // CANNOT_PARSE_TEXT, _INPUT_ASSERTION_FAILED, _DATE, _DATETIME, _NUMBER, _UUID, INCORRECT_DATA of a value, value out of range,
        // NULL into a column that has none, a CHECK that does not hold.
        Some(6 | 26 | 27 | 38 | 41 | 69 | 72 | 321 | 349 | 376 | 469) => Class::Rows,
        // NO_SUCH_COLUMN_IN_TABLE, UNKNOWN_IDENTIFIER, UNKNOWN_TYPE, TYPE_MISMATCH, UNKNOWN_TABLE, SYNTAX_ERROR, UNKNOWN_DATABASE,
        // UNKNOWN_SETTING, INCORRECT_DATA (an unknown field), READONLY, UNKNOWN_USER, WRONG_PASSWORD, REQUIRED_PASSWORD,
        // IP_ADDRESS_NOT_ALLOWED, ACCESS_DENIED, AUTHENTICATION_FAILED.
        Some(16 | 47 | 50 | 53 | 60 | 62 | 81 | 115 | 117 | 164 | 192..=195 | 497 | 516) => Class::Setup,
        // TIMEOUT_EXCEEDED 159, TOO_MANY_SIMULTANEOUS_QUERIES 202, MEMORY_LIMIT_EXCEEDED 241, TABLE_IS_READ_ONLY 242,
        // NOT_ENOUGH_SPACE 243, TOO_MANY_PARTS 252, and whatever else.
        _ => Class::Transient,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_say_nothing_about_rows_never_cost_a_row() {
        for code in [159, 202, 241, 242, 243, 252, 209, 210, 999, 1002, 0, 123_456] {
            assert_eq!(classify(Some(code)), Class::Transient, "{code}");
        }
        assert_eq!(classify(None), Class::Transient);
        for code in [16, 47, 50, 53, 60, 62, 81, 115, 117, 164, 192, 193, 194, 195, 497, 516] {
            assert_eq!(classify(Some(code)), Class::Setup, "{code}");
        }
        for code in [6, 26, 27, 38, 41, 69, 72, 321, 349, 376, 469] {
            assert_eq!(classify(Some(code)), Class::Rows, "{code}");
        }
    }
}
