//! Why a record became a dead letter: the codes, what each means, and what to do.

/// A code.
pub type Reason = &'static str;

/// The record is no delta.
pub const MALFORMED: Reason = "malformed";
/// HubSpot will not take it as it is.
pub const REFUSED: Reason = "refused";
/// The account's own rules forbid the move of a deal.
pub const VALIDATION: Reason = "validation";
/// The deal is gone.
pub const DEAL_GONE: Reason = "deal-gone";
/// The contact is gone.
pub const CONTACT_GONE: Reason = "contact-gone";
/// No contact appeared for an e-mail address.
pub const NO_CONTACT: Reason = "no-contact";
/// The account does not take a property.
pub const PROPERTY_REFUSED: Reason = "property-refused";
/// Another record has what was to be written.
pub const CONFLICT: Reason = "conflict";
/// HubSpot kept failing.
pub const GAVE_UP: Reason = "gave-up";
/// ClickHouse does not take a row; written by the ClickHouse sink.
pub const CLICKHOUSE: Reason = "clickhouse";

/// All codes of dead letters, those of inputs included: code, meaning, what to do.
pub const ALL: [(Reason, &str, &str); 16] = [
    (MALFORMED, "the record is no delta", "look at who else writes to the topic; then drop it"),
    (REFUSED, "HubSpot refuses the record, and says why", "correct what it names in HubSpot; then replay"),
    (
        VALIDATION,
        "a validation or pipeline rule of the account forbids the move",
        "fill in what the rule asks for, or change the rule; then replay",
    ),
    (DEAL_GONE, "the deal was deleted, or merged into another", "drop it"),
    (CONTACT_GONE, "HubSpot has no such contact: it was deleted, or never there", "drop it, or restore the contact and replay"),
    (NO_CONTACT, "no contact with the e-mail address appeared within `park_for`", "make the contact and replay, or set `create_contacts`"),
    (PROPERTY_REFUSED, "the property does not exist, or is read-only", "correct `field_mapping`; drop it, newer clicks bring newer values"),
    (CONFLICT, "another contact has a value that must be unique", "correct it in HubSpot; then replay"),
    (GAVE_UP, "HubSpot failed for as long as `give_up_after`", "replay once HubSpot works"),
    ("json", "the input is no JSON", "correct its writer; then drop it"),
    ("field", "the input lacks a field, or has it in another form", "correct its writer; then drop it"),
    ("bounds", "the input is larger than is taken", "correct its writer; then drop it"),
    ("version", "the input has a schema version that this clickline does not know", "replay with a newer clickline"),
    ("key", "the input's key does not fit its content", "correct its writer; then drop it"),
    ("clock", "the input's time lies too far ahead of the log's", "correct the clock of its writer; replay once that time has come"),
    (
        CLICKHOUSE,
        "ClickHouse does not take the row; `detail` has its code",
        "mend the table, or drop it; replay a click within `times.dedupe_horizon`, or it counts once more",
    ),
];

/// What a code means, and what to do.
pub fn meaning(code: &str) -> Option<(&'static str, &'static str)> {
    ALL.iter().find(|(known, ..)| *known == code).map(|(_, meaning, todo)| (*meaning, *todo))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_documented() {
        let documented = include_str!("../../docs/hubspot.md");
        for (code, meaning, _) in ALL {
            assert!(documented.contains(&format!("| `{code}` | {meaning} |")), "{code}");
        }
    }
}
