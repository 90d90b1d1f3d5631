//! `port-monitor schema`: the JSON Schema of the event stream.

use crate::{
    exit_code::{ExitCode, Failure, OrExit as _},
    sink::{schema::json_schema, target::print},
};

/// Prints the schema.
pub fn run() -> Result<ExitCode, Failure> {
    let mut text = serde_json::to_string_pretty(&json_schema()).or_exit(ExitCode::OutputFailed)?;
    text.push('\n');
    print(text.as_bytes())
}
