//! Rendering of event templates: Handlebars, with HubSpot's `formatDate` block.
//!
//! What comes out is text, not HTML: whoever shows it escapes it. HubSpot also understands Markdown; here it stays as written.

use crate::clock::{iso, parse_time};
use handlebars::{Context, Handlebars, Helper, HelperResult, Output, RenderContext, RenderErrorReason};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// `{{#formatDate timestamp}}{{/formatDate}}` writes the time.
fn format_date(helper: &Helper<'_>, _: &Handlebars<'_>, _: &Context, _: &mut RenderContext<'_, '_>, out: &mut dyn Output) -> HelperResult {
    let value = helper.param(0).ok_or(RenderErrorReason::ParamNotFoundForIndex("formatDate", 0))?.value();
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    out.write(&parse_time(&text).map_or(text, iso))?;
    Ok(())
}

fn engine() -> Handlebars<'static> {
    let mut engine = Handlebars::new();
    engine.register_escape_fn(handlebars::no_escape);
    engine.register_helper("formatDate", Box::new(format_date));
    engine
}

/// Whether a template can be read; the reason when not.
pub(super) fn check(template: &str) -> Result<(), String> {
    handlebars::Template::compile(template).map(|_| ()).map_err(|e| e.to_string())
}

/// The template filled with an event's tokens, extra data and time. A template that fails is shown as it is written.
pub(super) fn render(template: &str, tokens: &BTreeMap<String, String>, extra_data: &Value, timestamp: u64) -> String {
    let mut data = json!(tokens);
    data["extraData"] = extra_data.clone();
    data["timestamp"] = timestamp.into();
    engine().render_template(template, &data).unwrap_or_else(|_| template.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_details_are_filled() {
        let tokens = BTreeMap::from([("title".into(), "Q2 <pricing>".into())]);
        let extra = json!({ "utm": { "source": "webinar" } });
        assert_eq!(render("Clicked: {{title}}", &tokens, &extra, 0), "Clicked: Q2 <pricing>");
        let detail =
            "{{#if extraData.utm.source}}Source: {{extraData.utm.source}}{{/if}} {{#formatDate timestamp}}{{/formatDate}}{{nosuch}}";
        assert_eq!(render(detail, &tokens, &extra, 0), "Source: webinar 1970-01-01T00:00:00.000Z");
        assert!(check("{{#if x}}").is_err());
    }
}
