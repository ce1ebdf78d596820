//! A backtest as a picture: deals advanced against threshold, a panel for each rule and a line for each window.
//!
//! SVG text; names of rules that are longer than their panel are cut. Lines that lie on each other stay visible: the first is
//! drawn widest. A ring stands where the rule is as it is written.

use super::report::{OfRule, Report};
use crate::model::time::{Ms, rfc3339};
use indicatif::HumanCount;
use plotters::coord::Shift;
use plotters::drawing::DrawingAreaErrorKind;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::collections::BTreeMap;

/// Colours that people who see few colours tell apart (Okabe and Ito).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(60, 60, 60),
];
const GREY: RGBColor = RGBColor(110, 110, 110);
const MESH: RGBColor = RGBColor(225, 225, 225);
/// About the width of a letter, in parts of its height.
const LETTER: f64 = 0.56;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// One entry of the legend.
struct Entry {
    text: String,
    window: Option<usize>,
    x: i32,
    y: i32,
}

/// The picture as SVG.
///
/// # Errors
/// None that a picture in memory can have.
pub fn svg(report: &Report) -> anyhow::Result<String> {
    let mut text = String::new();
    draw(report, &mut text).map_err(|error| anyhow::anyhow!("cannot draw the chart: {error}"))?;
    Ok(text)
}

fn draw(report: &Report, text: &mut String) -> Drawn {
    let columns = match report.rules.len() {
        0 | 1 => 1,
        2..=6 => 2,
        _ => 3,
    };
    let (panel_width, panel_height) = if columns == 1 { (860, 440) } else { (460, 300) };
    let rows = report.rules.len().div_ceil(columns).max(1);
    let width = panel_width * u32::try_from(columns).unwrap_or(1);
    let windows = windows(report);
    let (legend, legend_height) = legend(&windows, i32::try_from(width).unwrap_or(i32::MAX));
    let head = 62 + legend_height;
    let height = u32::try_from(head).unwrap_or(0) + panel_height * u32::try_from(rows).unwrap_or(1);
    let root = SVGBackend::with_string(text, (width, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let (head, panels) = root.split_vertically(head);
    let at = |at: Option<Ms>| at.map_or("?".to_owned(), |at| rfc3339(at).chars().take(10).collect());
    let reach = format!("{} to {}, {} clicks", at(report.history.from), at(report.history.to), HumanCount(report.history.clicks));
    head.draw(&Text::new("Deals advanced against threshold", (16, 14), ("sans-serif", 20).into_font()))?;
    head.draw(&Text::new(reach, (16, 40), ("sans-serif", 13).into_font().color(&GREY)))?;
    for entry in &legend {
        draw_entry(&head, entry, windows.len())?;
    }
    let several = report.rules.windows(2).any(|pair| pair[0].workspace != pair[1].workspace);
    for (panel, rule) in panels.split_evenly((rows, columns)).iter().zip(&report.rules) {
        let name = if several { format!("{}: {}", rule.workspace, rule.rule) } else { rule.rule.clone() };
        draw_panel(panel, rule, &name, &windows, panel_width)?;
    }
    root.present()
}

/// All windows by length, with their names.
fn windows(report: &Report) -> Vec<(Ms, String)> {
    let variants = report.rules.iter().flat_map(|rule| &rule.variants);
    variants.map(|variant| (variant.window_ms, variant.window.clone())).collect::<BTreeMap<_, _>>().into_iter().collect()
}

fn colour(place: usize, of: usize) -> RGBColor {
    match COLOURS.get(place) {
        Some(colour) if of <= COLOURS.len() => *colour,
        _ => {
            let (r, g, b) = HSLColor(place as f64 / of as f64, 0.75, 0.4).rgb();
            RGBColor(r, g, b)
        }
    }
}

/// Wide for the first of several lines, which the others may lie on.
fn stroke(place: usize, of: usize) -> u32 {
    2 + 2 * u32::try_from(of.saturating_sub(place + 1).min(2)).unwrap_or(0)
}

/// Entries in rows that fit, and the height of all rows.
fn legend(windows: &[(Ms, String)], width: i32) -> (Vec<Entry>, i32) {
    let texts = windows.iter().enumerate().map(|(place, (_, name))| (format!("window of {name}"), Some(place)));
    let (mut x, mut y) = (16, 66);
    let mut entries = Vec::new();
    for (text, window) in texts.chain([("as the rule is written".to_owned(), None)]) {
        let needs = 34 + pixels(&text, 13) + 22;
        if x > 16 && x + needs > width {
            (x, y) = (16, y + 20);
        }
        entries.push(Entry { text, window, x, y });
        x += needs;
    }
    (entries, y + 20 - 62)
}

fn pixels(text: &str, height: u32) -> i32 {
    (text.chars().count() as f64 * f64::from(height) * LETTER) as i32
}

fn draw_entry(head: &Area<'_>, entry: &Entry, of: usize) -> Drawn {
    let Entry { text, window, x, y } = entry;
    match window {
        Some(place) => {
            let style = colour(*place, of).stroke_width(4);
            head.draw(&PathElement::new(vec![(*x, y + 7), (x + 26, y + 7)], style))?;
        }
        None => head.draw(&Circle::new((x + 13, y + 7), 5, GREY.stroke_width(2)))?,
    }
    head.draw(&Text::new(text.clone(), (x + 34, *y), ("sans-serif", 13).into_font()))
}

fn draw_panel(panel: &Area<'_>, rule: &OfRule, name: &str, windows: &[(Ms, String)], width: u32) -> Drawn {
    let letters = (f64::from(width - 80) / (14.0 * LETTER)) as usize;
    let title: String =
        if name.chars().count() <= letters { name.to_owned() } else { name.chars().take(letters - 1).chain(['…']).collect() };
    let (title_area, plot) = panel.split_vertically(30);
    title_area.draw(&Text::new(title, (60, 12), ("sans-serif", 14).into_font().style(FontStyle::Bold)))?;
    let thresholds = || rule.variants.iter().map(|variant| variant.threshold);
    let (least, most) = (thresholds().min().unwrap_or(1), thresholds().max().unwrap_or(1));
    let x = if least == most { least.saturating_sub(1)..most + 1 } else { least..most };
    let top = rule.variants.iter().map(|variant| variant.deals).max().unwrap_or(0);
    // Room above the highest point, for its ring.
    let y = 0..(top + top.div_ceil(12)).max(1);
    let mut chart = ChartBuilder::on(&plot)
        .margin_left(8)
        .margin_right(24)
        .margin_bottom(8)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .x_desc("clicks in the window that make the rule hot")
        .y_desc("deals")
        .x_labels(10)
        .y_labels(6)
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(MESH)
        .axis_style(GREY)
        .label_style(("sans-serif", 12))
        .axis_desc_style(("sans-serif", 12).into_font().color(&GREY))
        .draw()?;
    let of_rule = windows.iter().enumerate().filter(|(_, (window, _))| rule.variants.iter().any(|variant| variant.window_ms == *window));
    let of_rule: Vec<(usize, Ms)> = of_rule.map(|(place, (window, _))| (place, *window)).collect();
    for (line, (place, window)) in of_rule.iter().enumerate() {
        let (colour, stroke) = (colour(*place, windows.len()), stroke(line, of_rule.len()));
        let of_window = || rule.variants.iter().filter(|variant| variant.window_ms == *window);
        let points: Vec<(u64, usize)> = of_window().map(|variant| (variant.threshold, variant.deals)).collect();
        chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(stroke)))?;
        if points.len() <= 40 {
            chart.draw_series(points.iter().map(|point| Circle::new(*point, 1 + stroke / 2, colour.filled())))?;
        }
    }
    for variant in rule.variants.iter().filter(|variant| variant.own) {
        let place = windows.iter().position(|(window, _)| *window == variant.window_ms).unwrap_or(0);
        let point = (variant.threshold, variant.deals);
        chart.draw_series([Circle::new(point, 5, WHITE.filled())])?;
        chart.draw_series([Circle::new(point, 5, colour(place, windows.len()).stroke_width(2))])?;
    }
    if top == 0 {
        let (wide, high) = plot.dim_in_pixel();
        let style = ("sans-serif", 14).into_font().color(&GREY).pos(Pos::new(HPos::Center, VPos::Center));
        let middle = (i32::try_from(wide / 2).unwrap_or(0) + 18, i32::try_from(high / 2).unwrap_or(0) - 16);
        plot.draw(&Text::new("no deal at any threshold", middle, style))?;
    }
    Ok(())
}
