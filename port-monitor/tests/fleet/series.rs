//! What the metrics of a service tell of its export `central`.

use std::net::SocketAddr;

use crate::{http::get, program::wait_for};

/// Waits until a series of the export says something, and what that is.
#[track_caller]
pub(crate) fn until(metrics: SocketAddr, series: &str, is_reached: impl Fn(u64) -> bool) -> u64 {
    let begin = format!("port_monitor_export_{series}{{export=\"central\"}} ");
    wait_for(series, || {
        let (_, _, body) = get(metrics, "/metrics", "")?;
        let line = body.lines().find_map(|line| line.strip_prefix(&begin))?;
        let value = line.parse().unwrap();
        is_reached(value).then_some(value)
    })
}

/// Waits until more rows are sent than there were.
pub(crate) fn await_more(metrics: SocketAddr) {
    let sent = until(metrics, "rows_sent_total", |_| true);
    until(metrics, "rows_sent_total", |rows| rows > sent);
}
