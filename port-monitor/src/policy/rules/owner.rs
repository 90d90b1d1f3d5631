//! The conditions on the owner of a connection: units, cgroups and executables. What is
//! not there now may come later, so it is told and the rule stands.

use super::compile::Compiler;
use crate::{
    host::file_id::plain,
    policy::text::{parse::Value, problem::Problem, value},
};

impl Compiler<'_> {
    pub(crate) fn unit(&mut self, item: &Value<'_>) -> Result<u32, Problem> {
        let name = value::unit(item)?;
        if !self.units().knows(&name) {
            self.diagnostics
                .report(item.span(), Problem::UnknownUnit(name.to_string()));
        }
        let names = self.units().names(&name);
        Ok(self.scopes.unit(&names))
    }

    pub(crate) fn cgroup(&mut self, item: &Value<'_>) -> Result<u32, Problem> {
        let written = value::path(item)?;
        let path = self.units().cgroup(written);
        let meant = if path.is_empty() { "/" } else { &path };
        if !self.units().has_cgroup(&path) {
            self.diagnostics.report(
                item.span(),
                Problem::UnknownCgroup {
                    written: written.to_owned(),
                    path: meant.to_owned(),
                },
            );
        } else if meant != written {
            self.diagnostics.report(
                item.span(),
                Problem::CgroupSpelling {
                    written: written.to_owned(),
                    path: meant.to_owned(),
                },
            );
        }
        Ok(self.scopes.cgroup(&path))
    }

    pub(crate) fn exe(&mut self, item: &Value<'_>) -> Result<u32, Problem> {
        let path = value::path(item)?.trim_end_matches('/');
        let file = self.env.executable(path.as_ref());
        if let Err(error) = &file {
            self.diagnostics.report(
                item.span(),
                Problem::NoExecutable {
                    path: path.to_owned(),
                    error: error.to_string(),
                },
            );
        }
        // Nothing that runs has a path with `..` in it.
        match file {
            Ok(file) => Ok(self.scopes.exe(path, Some(file))),
            Err(_) => Ok(self
                .scopes
                .exe(&plain(path.as_ref()).to_string_lossy(), None)),
        }
    }
}
