//! Which of the formats a scraper is given, by the headers that it asks with (RFC 9110 §12.5).

use super::exposition::Format;

/// The thousandths of a weight of 1.
const WHOLE: u16 = 1_000;

/// The format for these values of `Accept`. Who asks for nothing that there is gets the older
/// text, as everywhere.
pub(super) fn format(accept: &str) -> Format {
    let mut weights = [0; 2];
    for range in ranges(accept) {
        let version = range.parameter("version");
        let [open_metrics, text] = &mut weights;
        let weight = match range.name {
            "application/openmetrics-text" if version.is_none_or(|it| it == "1.0.0") => {
                open_metrics
            }
            "text/plain" if version.is_none_or(|it| it == "0.0.4") => text,
            _ => continue,
        };
        *weight = range.weight.max(*weight);
    }
    let [open_metrics, text] = weights;
    if open_metrics > 0 && open_metrics >= text {
        Format::OpenMetrics
    } else {
        Format::Text
    }
}

/// Whether these values of `Accept-Encoding` ask for gzip.
pub(super) fn takes_gzip(accept_encoding: &str) -> bool {
    let weight = |name| {
        let mut all = ranges(accept_encoding);
        let asked = all.find(|range| range.name.eq_ignore_ascii_case(name));
        asked.map(|range| range.weight)
    };
    weight("gzip")
        .or_else(|| weight("*"))
        .is_some_and(|weight| weight > 0)
}

/// One of the things that are asked for.
struct Range<'h> {
    name: &'h str,
    parameters: &'h str,
    /// In thousandths.
    weight: u16,
}

impl<'h> Range<'h> {
    fn of(text: &'h str) -> Self {
        let (name, parameters) = text.split_once(';').unwrap_or((text, ""));
        let mut range = Self {
            name: name.trim(),
            parameters,
            weight: WHOLE,
        };
        if let Some(weight) = range.parameter("q") {
            range.weight = thousandths(weight);
        }
        range
    }

    fn parameter(&self, name: &str) -> Option<&'h str> {
        let parameters = self.parameters.split(';');
        let mut pairs = parameters.filter_map(|pair| pair.split_once('='));
        let (_, value) = pairs.find(|(key, _)| key.trim().eq_ignore_ascii_case(name))?;
        Some(value.trim().trim_matches('"'))
    }
}

fn ranges(header: &str) -> impl Iterator<Item = Range<'_>> {
    header.split(',').map(Range::of)
}

/// A weight, `0` to `1` with up to three digits behind the point; zero for what is none.
fn thousandths(weight: &str) -> u16 {
    let (whole, rest) = weight.split_once('.').unwrap_or((weight, ""));
    let is_number = rest.len() <= 3 && rest.bytes().all(|byte| byte.is_ascii_digit());
    match whole {
        "1" if is_number => WHOLE,
        "0" if is_number => format!("{rest:0<3}").parse().unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use crate::consume::metrics::negotiate::*;

    #[test]
    fn each_scraper_gets_the_format_that_it_asks_for_first() {
        // Prometheus 2.42, Prometheus 3.5, VictoriaMetrics 1.145, curl, a browser.
        let prometheus_2 = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        let victoria = "text/plain;version=0.0.4;q=1,*/*;q=0.1";
        for (accept, expected) in [
            (prometheus_2, Format::OpenMetrics),
            (prometheus_3, Format::OpenMetrics),
            (victoria, Format::Text),
            ("*/*", Format::Text),
            ("", Format::Text),
            ("text/html,application/xhtml+xml;q=0.9", Format::Text),
            ("application/openmetrics-text", Format::OpenMetrics),
            (
                "application/openmetrics-text; version=\"1.0.0\"",
                Format::OpenMetrics,
            ),
            ("application/openmetrics-text;version=2.0.0", Format::Text),
            (
                "application/openmetrics-text;version=1.0.0;q=0",
                Format::Text,
            ),
            (
                "application/openmetrics-text;q=0.2,text/plain;q=0.3",
                Format::Text,
            ),
            (
                "text/plain;q=0.3, application/openmetrics-text;q=0.31",
                Format::OpenMetrics,
            ),
            ("application/openmetrics-text;q=junk", Format::Text),
        ] {
            assert_eq!(format(accept), expected, "{accept}");
        }
    }

    #[test]
    fn gzip_is_for_those_that_ask_for_it() {
        for asks in [
            "gzip",
            "deflate, gzip;q=0.5",
            "*",
            "GZIP",
            "br;q=1.0, *;q=0.1",
        ] {
            assert!(takes_gzip(asks), "{asks}");
        }
        for does_not in ["", "identity", "gzip;q=0", "gzip;q=0, *", "*;q=0", "x-gzip"] {
            assert!(!takes_gzip(does_not), "{does_not}");
        }
    }
}
