//! The live view on a real terminal.

use std::panic;

use anyhow::{Result, bail};

use crate::{backend::Backend, bpf, lab::Lab, report::Verdict, story};

/// The view is used from its start to its end, and leaves nothing in the kernel.
pub(super) fn is_used(lab: &Lab, backend: Backend) -> Result<Verdict> {
    let before = bpf::all()?;
    let args = format!(
        "--backend {backend} --pid {} --color never",
        std::process::id()
    );
    let told = panic::catch_unwind(|| story::tell(&lab.program, &args));
    if let Err(cause) = told {
        let text = cause.downcast_ref::<String>().map(String::as_str);
        bail!("{}", text.unwrap_or("the story went wrong"));
    }
    let left: bpf::Objects = bpf::all()?.difference(&before).copied().collect();
    bpf::await_gone(&left)?;
    Ok(Verdict::pass())
}
