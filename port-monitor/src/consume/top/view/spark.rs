//! Figures over time in one line.

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The last `room` of the figures, one column each, the greatest as a whole bar. Zero is the
/// lowest bar, so that a line is a line.
pub(super) fn spark(figures: &[u64], room: usize) -> String {
    let shown = figures.get(figures.len().saturating_sub(room)..);
    let shown = shown.unwrap_or_default();
    let greatest = shown.iter().copied().max().unwrap_or(0);
    let missing = room.saturating_sub(shown.len());
    let bars = shown.iter().map(|&figure| bar(figure, greatest));
    std::iter::repeat_n(' ', missing).chain(bars).collect()
}

fn bar(figure: u64, greatest: u64) -> char {
    let steps = (u128::from(figure) * 7).div_ceil(u128::from(greatest.max(1)));
    let step = usize::try_from(steps).unwrap_or(7);
    BARS.get(step).copied().unwrap_or('█')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greatest_is_whole_the_least_is_seen_and_what_is_missing_is_blank() {
        assert_eq!(spark(&[0, 1, 50, 100], 6), "  ▁▂▅█");
        assert_eq!(spark(&[5, 0, u64::MAX], 2), "▁█");
        assert_eq!(spark(&[], 3), "   ");
        assert_eq!(spark(&[0, 0], 2), "▁▁");
    }
}
