//! What every new portal has: HubSpot's built-in properties (those this sandbox needs) and the default deal pipeline.

use super::Kind;
use super::pipelines::{Pipeline, Stage};
use super::schema::{Group, ModificationMetadata, Property, PropertyOption, Schema};
use std::collections::BTreeMap;

/// Who may set a built-in property's value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Set {
    /// Callers of the API.
    Any,
    /// HubSpot alone.
    ReadOnly,
    /// Callers of the API; no two records share a value.
    Unique,
}
use Set::{Any, ReadOnly, Unique};

/// (name, label, type, field type, who sets it)
type Row = (&'static str, &'static str, &'static str, &'static str, Set);

const CONTACT: &[Row] = &[
    ("email", "Email", "string", "text", Unique),
    ("firstname", "First Name", "string", "text", Any),
    ("lastname", "Last Name", "string", "text", Any),
    ("phone", "Phone Number", "string", "phonenumber", Any),
    ("mobilephone", "Mobile Phone Number", "string", "phonenumber", Any),
    ("company", "Company Name", "string", "text", Any),
    ("jobtitle", "Job Title", "string", "text", Any),
    ("website", "Website URL", "string", "text", Any),
    ("city", "City", "string", "text", Any),
    ("country", "Country/Region", "string", "text", Any),
    ("lifecyclestage", "Lifecycle Stage", "enumeration", "radio", Any),
    ("hubspot_owner_id", "Contact owner", "enumeration", "select", Any),
    ("createdate", "Create Date", "datetime", "date", ReadOnly),
    ("lastmodifieddate", "Last Modified Date", "datetime", "date", ReadOnly),
    ("hs_object_id", "Record ID", "number", "number", ReadOnly),
    ("hs_additional_emails", "Additional email addresses", "enumeration", "checkbox", ReadOnly),
    ("hs_merged_object_ids", "Merged record IDs", "enumeration", "checkbox", ReadOnly),
    ("hs_analytics_source", "Original Source", "enumeration", "select", ReadOnly),
    ("hs_analytics_source_data_1", "Original Source Drill-Down 1", "string", "text", ReadOnly),
    ("hs_analytics_source_data_2", "Original Source Drill-Down 2", "string", "text", ReadOnly),
    ("hs_analytics_first_url", "First Page Seen", "string", "text", ReadOnly),
    ("hs_analytics_first_referrer", "First Referring Site", "string", "text", ReadOnly),
    ("hs_analytics_first_timestamp", "Time First Seen", "datetime", "date", ReadOnly),
    ("hs_analytics_last_url", "Last Page Seen", "string", "text", ReadOnly),
    ("hs_analytics_last_referrer", "Last Referring Site", "string", "text", ReadOnly),
    ("hs_analytics_last_timestamp", "Time Last Seen", "datetime", "date", ReadOnly),
    ("hs_analytics_num_page_views", "Number of Pageviews", "number", "number", ReadOnly),
    ("hs_latest_source", "Latest Source", "enumeration", "select", ReadOnly),
    ("hs_latest_source_data_1", "Latest Source Drill-Down 1", "string", "text", ReadOnly),
    ("hs_latest_source_data_2", "Latest Source Drill-Down 2", "string", "text", ReadOnly),
    ("hs_google_click_id", "Google ad click id", "string", "text", ReadOnly),
    ("hs_facebook_click_id", "Facebook click id", "string", "text", ReadOnly),
];

const DEAL: &[Row] = &[
    ("dealname", "Deal Name", "string", "text", Any),
    ("pipeline", "Pipeline", "enumeration", "select", Any),
    ("dealstage", "Deal Stage", "enumeration", "radio", Any),
    ("amount", "Amount", "number", "number", Any),
    ("deal_currency_code", "Currency", "string", "text", Any),
    ("amount_in_home_currency", "Amount in company currency", "number", "calculation_equation", ReadOnly),
    ("closedate", "Close Date", "datetime", "date", Any),
    ("createdate", "Create Date", "datetime", "date", Any),
    ("dealtype", "Deal Type", "enumeration", "radio", Any),
    ("description", "Deal Description", "string", "textarea", Any),
    ("hubspot_owner_id", "Deal owner", "enumeration", "select", Any),
    ("hs_priority", "Priority", "enumeration", "select", Any),
    ("hs_lastmodifieddate", "Last Modified Date", "datetime", "date", ReadOnly),
    ("hs_object_id", "Record ID", "number", "number", ReadOnly),
    ("hs_merged_object_ids", "Merged record IDs", "enumeration", "checkbox", ReadOnly),
    ("hs_is_closed", "Is Deal Closed?", "bool", "calculation_equation", ReadOnly),
    ("hs_is_closed_won", "Is Closed Won", "bool", "calculation_equation", ReadOnly),
    ("hs_deal_stage_probability", "Deal probability", "number", "calculation_equation", ReadOnly),
    ("hs_analytics_source", "Original Source Type", "enumeration", "select", ReadOnly),
];

/// (property, its choices); an enumeration that is not listed takes its choices from elsewhere.
const OPTIONS: &[(&str, &[&str])] = &[
    (
        "lifecyclestage",
        &["subscriber", "lead", "marketingqualifiedlead", "salesqualifiedlead", "opportunity", "customer", "evangelist", "other"],
    ),
    (
        "hs_analytics_source",
        &[
            "ORGANIC_SEARCH",
            "PAID_SEARCH",
            "EMAIL_MARKETING",
            "SOCIAL_MEDIA",
            "REFERRALS",
            "OTHER_CAMPAIGNS",
            "DIRECT_TRAFFIC",
            "OFFLINE",
            "PAID_SOCIAL",
            "AI_REFERRALS",
        ],
    ),
    ("dealtype", &["newbusiness", "existingbusiness"]),
    ("hs_priority", &["low", "medium", "high"]),
    ("hs_is_closed", &["true", "false"]),
    ("hs_is_closed_won", &["true", "false"]),
];

/// (id, label, probability, closed) of the default deal pipeline, in order.
const STAGES: &[(&str, &str, &str, bool)] = &[
    ("appointmentscheduled", "Appointment Scheduled", "0.2", false),
    ("qualifiedtobuy", "Qualified To Buy", "0.4", false),
    ("presentationscheduled", "Presentation Scheduled", "0.6", false),
    ("decisionmakerboughtin", "Decision Maker Bought-In", "0.8", false),
    ("contractsent", "Contract Sent", "0.9", false),
    ("closedwon", "Closed Won", "1.0", true),
    ("closedlost", "Closed Lost", "0.0", true),
];

/// The definitions a new portal has for `kind`.
pub(super) fn schema(kind: Kind) -> Schema {
    let (rows, group, label) = match kind {
        Kind::Contact => (CONTACT, "contactinformation", "Contact information"),
        Kind::Deal => (DEAL, "dealinformation", "Deal information"),
    };
    let properties = rows.iter().enumerate().map(|(order, row)| (row.0.to_owned(), built_in(order, row, group))).collect();
    let group = Group { name: group.into(), label: label.into(), display_order: 0, archived: false };
    Schema { properties, groups: BTreeMap::from([(group.name.clone(), group)]) }
}

fn built_in(order: usize, &(name, label, data_type, field_type, set): &Row, group: &str) -> Property {
    let choices = OPTIONS.iter().find(|(property, _)| *property == name).map(|(_, values)| *values);
    let options = choices.unwrap_or_default().iter().enumerate().map(|(order, value)| PropertyOption {
        label: (*value).into(),
        value: (*value).into(),
        description: String::new(),
        display_order: order as i64,
        hidden: false,
    });
    Property {
        name: name.into(),
        label: label.into(),
        data_type: data_type.into(),
        field_type: field_type.into(),
        group_name: group.into(),
        description: String::new(),
        options: options.collect(),
        display_order: order as i64,
        calculated: field_type == "calculation_equation",
        external_options: data_type == "enumeration" && choices.is_none(),
        has_unique_value: set == Unique,
        hidden: false,
        hubspot_defined: true,
        form_field: set != ReadOnly,
        archived: false,
        modification_metadata: ModificationMetadata {
            archivable: false,
            read_only_definition: true,
            read_only_options: false,
            read_only_value: set == ReadOnly,
        },
        created_at: None,
        updated_at: None,
    }
}

/// HubSpot's default deal pipeline.
pub(crate) fn pipeline() -> Pipeline {
    let stages = STAGES.iter().enumerate().map(|(order, &(id, label, probability, closed))| {
        let metadata = BTreeMap::from([("isClosed".into(), closed.to_string()), ("probability".into(), probability.to_owned())]);
        Stage { id: id.into(), label: label.into(), display_order: order as i64, metadata, created_at: 0, updated_at: 0 }
    });
    Pipeline {
        id: "default".into(),
        label: "Sales Pipeline".into(),
        display_order: 0,
        stages: stages.collect(),
        created_at: 0,
        updated_at: 0,
    }
}
