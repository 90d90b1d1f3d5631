//! The leading metric of a measurement as a bar chart.

use std::fmt::{self, Write as _};

use super::{
    What,
    figures::{Figure, Figures},
    number::number,
};

const BAR_HEIGHT: u32 = 22;
const ROW_HEIGHT: u32 = 32;
const TITLE_HEIGHT: u32 = 48;
/// Room for the names of the subjects, right-aligned before the bars.
const NAME_WIDTH: u32 = 220;
/// The longest bar.
const BAR_WIDTH: f64 = 560.0;
/// Room for the number behind the longest bar.
const NUMBER_WIDTH: f64 = 140.0;

/// The name that says that a document is an image of this kind.
const NAMESPACE: &str = "http://www.w3.org/2000/svg";

/// The group and the metric that say most.
pub(super) fn leading(what: What, figures: &Figures) -> Option<(String, String)> {
    let group = match what {
        What::Monitor => "flood",
        What::Verdict => "connect",
        What::Scale | What::Top | What::History => figures.groups().first()?,
    };
    let metric = match what {
        What::Monitor | What::Verdict => "per connection",
        What::Scale | What::Top | What::History => figures.metrics(group).first()?.0,
    };
    let is_measured = figures
        .metrics(group)
        .iter()
        .any(|(name, _)| *name == metric);
    is_measured.then(|| (group.to_owned(), metric.to_owned()))
}

/// A horizontal bar per subject, as long as its median, as an SVG image.
pub(super) fn draw(figures: &Figures, group: &str, metric: &str) -> Result<String, fmt::Error> {
    let bars: Vec<&Figure> = figures
        .all()
        .iter()
        .filter(|figure| figure.group == group && figure.metric == metric)
        .collect();
    let medians = bars.iter().map(|figure| figure.median());
    let longest = medians.fold(f64::MIN_POSITIVE, f64::max);
    let unit = bars.first().map_or("", |figure| &*figure.unit);
    let width = f64::from(NAME_WIDTH) + BAR_WIDTH + NUMBER_WIDTH;
    let rows = u32::try_from(bars.len()).unwrap_or_default();
    let height = TITLE_HEIGHT + rows * ROW_HEIGHT + ROW_HEIGHT / 2;

    let mut svg = String::new();
    writeln!(
        svg,
        r#"<svg xmlns="{NAMESPACE}" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="14">"#
    )?;
    writeln!(svg, r#"<rect width="100%" height="100%" fill="white"/>"#)?;
    let title = escape(&format!("{group}: {metric} ({unit})"));
    writeln!(
        svg,
        r#"<text x="16" y="28" font-size="16" font-weight="bold">{title}</text>"#
    )?;
    for (row, figure) in (0..).zip(&bars) {
        draw_bar(&mut svg, TITLE_HEIGHT + row * ROW_HEIGHT, figure, longest)?;
    }
    writeln!(svg, "</svg>")?;
    Ok(svg)
}

fn draw_bar(svg: &mut String, top: u32, figure: &Figure, longest: f64) -> fmt::Result {
    let median = figure.median();
    let length = (median / longest).clamp(0.0, 1.0) * BAR_WIDTH;
    let baseline = top + BAR_HEIGHT - 6;
    writeln!(
        svg,
        r#"<text x="{}" y="{baseline}" text-anchor="end">{}</text>"#,
        NAME_WIDTH - 10,
        escape(&figure.subject)
    )?;
    let fill = r##"fill="#4472a8""##;
    writeln!(
        svg,
        r#"<rect x="{NAME_WIDTH}" y="{top}" width="{length:.1}" height="{BAR_HEIGHT}" {fill}/>"#
    )?;
    writeln!(
        svg,
        r#"<text x="{:.1}" y="{baseline}">{}</text>"#,
        f64::from(NAME_WIDTH) + length + 8.0,
        number(median)
    )
}

/// `text` where markup is read.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figures::figures;

    #[test]
    fn every_subject_has_a_bar() {
        let figures = figures(&[
            ("none", "m", &[100.0]),
            ("a<b> & c", "m", &[50.0, 50.0]),
            ("other", "n", &[1.0]),
        ]);
        let svg = draw(&figures, "g", "m").unwrap();
        assert!(svg.contains(">none</text>"), "{svg}");
        assert!(svg.contains(">a&lt;b&gt; &amp; c</text>"), "{svg}");
        assert!(svg.contains(r#"width="560.0""#), "{svg}");
        assert!(svg.contains(r#"width="280.0""#), "{svg}");
        assert!(!svg.contains("other"), "{svg}");
        assert_eq!(svg.matches('<').count(), svg.matches('>').count());
    }

    #[test]
    fn what_was_not_measured_has_no_plot() {
        let figures = figures(&[("none", "m", &[1.0])]);
        assert_eq!(leading(What::Monitor, &figures), None);
        assert_eq!(leading(What::Scale, &Figures::default()), None);
        let first = Some(("g".to_owned(), "m".to_owned()));
        assert_eq!(leading(What::Scale, &figures), first);
    }
}
