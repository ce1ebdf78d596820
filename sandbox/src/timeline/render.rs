//! Rendering of event templates: Handlebars, with HubSpot's `formatDate` block.
//!
//! What comes out is text, not HTML: whoever shows it escapes it. HubSpot also understands Markdown; here it stays as written.

use super::events::Event;
use super::templates::Templates;
use crate::clock::{iso, parse_time};
use crate::portal::Portal;
use handlebars::{Context, Handlebars, Helper, HelperResult, Output, RenderContext, RenderErrorReason};

/// `{{#formatDate timestamp}}{{/formatDate}}` writes the time.
fn format_date(helper: &Helper<'_>, _: &Handlebars<'_>, _: &Context, _: &mut RenderContext<'_, '_>, out: &mut dyn Output) -> HelperResult {
    let value = helper.param(0).ok_or(RenderErrorReason::ParamNotFoundForIndex("formatDate", 0))?.value();
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    out.write(&parse_time(&text).map_or(text, iso))?;
    Ok(())
}

/// Whether a template can be read; the reason when not.
pub(super) fn check(template: &str) -> Result<(), String> {
    handlebars::Template::compile(template).map(|_| ()).map_err(|e| e.to_string())
}

/// Every template of the sandbox, read once and ready to be filled many times.
pub(crate) struct Renderer(Handlebars<'static>);

impl Renderer {
    pub fn new(templates: &Templates) -> Self {
        let mut engine = Handlebars::new();
        engine.register_escape_fn(handlebars::no_escape);
        engine.register_helper("formatDate", Box::new(format_date));
        for template in templates.all() {
            for (part, text) in [("header", &template.header_template), ("detail", &template.detail_template)] {
                // Templates were checked when they were created; one that fails all the same renders to nothing.
                let _ = engine.register_template_string(&name(part, &template.id), text);
            }
        }
        Self(engine)
    }

    /// Header and detail of an event of this portal, from its tokens, extra data and time. A custom event has no templates: it
    /// goes by the label of its definition.
    pub fn title_and_detail(&self, portal: &Portal, event: &Event) -> (String, String) {
        if let Some(definition) = portal.event_definitions.get(&event.key.0) {
            return (definition.label.clone(), String::new());
        }
        let mut data = event.tokens.read::<serde_json::Map<_, _>>();
        data.insert("extraData".into(), event.extra_data.read());
        data.insert("timestamp".into(), event.timestamp.into());
        let one = |part| {
            let mut text = self.0.render(&name(part, &event.key.0), &data).unwrap_or_default();
            // Handlebars gives out strings with 8 kB of room; a portal's snapshot holds one or two per event.
            text.shrink_to_fit();
            text
        };
        (one("header"), one("detail"))
    }
}

fn name(part: &str, template: &str) -> String {
    format!("{part} {template}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_checked() {
        assert!(check("Clicked: {{title}} {{#if extraData.utm}}{{extraData.utm.source}}{{/if}}").is_ok());
        assert!(check("{{#if x}}").is_err());
    }
}
