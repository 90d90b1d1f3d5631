//! `port-monitor schema`: the JSON Schema of the event stream, or of the configuration.

use crate::{
    base::exit_code::{ExitCode, Failure, OrExit as _},
    commands::serve::config,
    consume::output::target::print,
    events::wire::JSON_SCHEMA,
};

/// Which schema.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// That of the configuration of `serve`, for editors
    ///
    /// Editors that know TOML use it for a configuration whose first line is
    /// `#:schema ./port-monitor.schema.json`, with the name that was given to the schema.
    #[arg(long)]
    config: bool,
}

/// Prints the schema.
pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    if !args.config {
        return print(JSON_SCHEMA.as_bytes());
    }
    let text = serde_json::to_string_pretty(&config::json_schema());
    let mut text = text.or_exit(ExitCode::OutputFailed)?;
    text.push('\n');
    print(text.as_bytes())
}
