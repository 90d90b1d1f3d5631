//! Reads the policy that a command is given.

use std::{
    env,
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
};

use anyhow::anyhow;

use crate::{
    base::exit_code::{ExitCode, Failure},
    policy::{Diagnostic, Host, Policy, PolicyError, Style},
};

/// Loads the policy a command is to use. Its warnings go to the standard error
/// output, its errors into the failure.
pub(super) fn load(path: &Path) -> Result<Policy, Failure> {
    load_with_lists(path).1
}

/// Loads the policy a command is to use, as [`load`] does, and tells the files with networks
/// that it names, also where it is refused.
pub(super) fn load_with_lists(path: &Path) -> (Vec<PathBuf>, Result<Policy, Failure>) {
    match Policy::load(path, &Host) {
        Ok((policy, warnings)) => {
            warn(&warnings);
            let lists = policy.list_files().iter().map(|list| list.path.clone());
            (lists.collect(), Ok(policy))
        }
        Err(PolicyError::Invalid(invalid)) => {
            let failure = anyhow!(invalid.render(style()));
            let failure = Failure::new(ExitCode::PolicyInvalid, failure);
            (invalid.list_paths, Err(failure))
        }
        Err(error @ PolicyError::File { .. }) => (
            Vec::new(),
            Err(Failure::new(ExitCode::PolicyInvalid, error)),
        ),
    }
}

pub(super) fn warn(warnings: &[Diagnostic]) {
    let mut stderr = io::stderr().lock();
    for warning in warnings {
        // Whoever closed the standard error output does not want warnings.
        if writeln!(stderr, "{}\n", warning.render(style())).is_err() {
            break;
        }
    }
}

pub(super) fn style() -> Style {
    let no_color = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if io::stderr().is_terminal() && !no_color {
        Style::Coloured
    } else {
        Style::Plain
    }
}
