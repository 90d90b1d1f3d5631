//! `port-monitor schema`: the JSON Schema of the event stream.

use crate::{
    base::exit_code::{ExitCode, Failure},
    consume::output::target::print,
    events::wire::JSON_SCHEMA,
};

/// Prints the schema.
pub fn run() -> Result<ExitCode, Failure> {
    print(JSON_SCHEMA.as_bytes())
}
