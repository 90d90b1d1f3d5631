//! The forms that a history is told in.

use std::io::Write;

use crate::{
    base::exit_code::{ExitCode, Failure, OrExit as _},
    commands::told::{note, written},
    consume::{
        history::told::sheet::{Sheet, SheetForm},
        lines::color::ColorWhen,
        output::target::{Target, Terminal},
    },
};

/// In what form.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Output")]
pub(super) struct FormArgs {
    /// What to write
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    pub(super) output: FormArg,
    /// When to colour the table
    #[arg(long, value_name = "WHEN", value_enum, default_value_t)]
    color: ColorWhen,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum FormArg {
    /// A table for people
    #[default]
    Table,
    /// JSON lines
    Json,
    /// Comma-separated values, with a line of names
    Csv,
}

impl FormArgs {
    /// The form of a sheet.
    pub(super) fn sheet(&self) -> Result<SheetForm, Failure> {
        Ok(match self.output {
            FormArg::Json => SheetForm::Json,
            FormArg::Csv => SheetForm::Csv,
            FormArg::Table => {
                let (width, color) = self.terminal()?;
                SheetForm::Table { width, color }
            }
        })
    }

    /// How wide the terminal is, if the output is one, and whether to use colours.
    pub(super) fn terminal(&self) -> Result<(Option<usize>, bool), Failure> {
        let target = Target::stdout().or_exit(ExitCode::OutputFailed)?;
        let width = target.terminal().as_ref().map(Terminal::width);
        let environment = |name: &str| std::env::var_os(name);
        Ok((width, self.color.enabled(width.is_some(), environment)))
    }
}

/// Writes a sheet, and remarks below it, or beside it where it is for a program.
pub(super) fn write(
    sheet: Sheet,
    form: SheetForm,
    remarks: &[String],
    mut out: impl Write,
) -> Result<ExitCode, Failure> {
    if !matches!(form, SheetForm::Table { .. }) {
        remarks.iter().for_each(note);
    }
    written(out.write_all(&sheet.write(form, remarks)))
}
