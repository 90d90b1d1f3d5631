//! `port-monitor schema`: the JSON Schema of the event stream.

use crate::{
    base::exit_code::{ExitCode, Failure, OrExit as _},
    consume::output::target::print,
    events::wire::json_schema,
};

/// Prints the schema.
pub fn run() -> Result<ExitCode, Failure> {
    let mut text = serde_json::to_string_pretty(&json_schema()).or_exit(ExitCode::OutputFailed)?;
    text.push('\n');
    print(text.as_bytes())
}
