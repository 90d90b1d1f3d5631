//! Diagnostics on standard error: warnings by default, more with `RUST_LOG`, and
//! what the eBPF programs log with `--bpf-log`.

/// The target of every record that comes from the eBPF object.
const EBPF: &str = "port_monitor_ebpf";

/// Starts logging; `ebpf` is how much of the eBPF programs' log to show.
pub fn init(ebpf: Option<log::Level>) {
    let mut builder =
        env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn"));
    if let Some(level) = ebpf {
        builder.filter_module(EBPF, level.to_level_filter());
    }
    if builder.try_init().is_err() {
        log::debug!("another logger is in place");
    }
}
