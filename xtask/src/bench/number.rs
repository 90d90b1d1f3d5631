//! Numbers as people read them.

/// Thousands separated, small numbers with up to three decimals.
pub(super) fn number(value: f64) -> String {
    let decimals = match value.abs() {
        size if size < 10.0 => 3,
        size if size < 100.0 => 2,
        size if size < 1000.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.decimals$}");
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let (sign, digits) = match whole.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", whole),
    };
    let grouped = with_separators(digits);
    match fraction.trim_end_matches('0') {
        "" if digits == "0" => grouped,
        "" => format!("{sign}{grouped}"),
        fraction => format!("{sign}{grouped}.{fraction}"),
    }
}

/// Half of the range as a percentage of the median: `±0.3%`.
pub(super) fn spread(part: f64) -> String {
    format!("±{:.1}%", part * 100.0)
}

/// A comma before every third digit from the right.
fn with_separators(digits: &str) -> String {
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_have_separators_and_small_ones_decimals() {
        let cases = [
            (0.0, "0"),
            (-0.0001, "0"),
            (1.0149, "1.015"),
            (-1.5, "-1.5"),
            (12.0, "12"),
            (12.345, "12.35"),
            (123.44, "123.4"),
            (999.0, "999"),
            (1912.4, "1,912"),
            (12_345.0, "12,345"),
            (-1_234_567.0, "-1,234,567"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn a_spread_is_a_percentage() {
        assert_eq!(spread(0.0031), "±0.3%");
    }
}
