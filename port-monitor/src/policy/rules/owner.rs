//! The conditions on the owner of a connection: users, units, cgroups and executables. What is
//! not there now may come later, so it is told and the rule stands.

use port_monitor_common::policy::OwnerCondition;

use super::compile::Compiler;
use crate::{
    host::file_id::plain,
    policy::text::{
        parse::{Value, integer, text, wrong_type},
        problem::Problem,
        value,
    },
    ports::services::closest,
};

impl Compiler<'_> {
    /// Reads an entry of a condition on the owner, which has a number from then on.
    pub(crate) fn owner(
        &mut self,
        condition: OwnerCondition,
        item: &Value<'_>,
    ) -> Result<u32, Problem> {
        match condition {
            OwnerCondition::User => self.uid(item),
            OwnerCondition::Unit => self.unit(item),
            OwnerCondition::Cgroup => self.cgroup(item),
            OwnerCondition::Exe => self.exe(item),
        }
    }

    fn unit(&mut self, item: &Value<'_>) -> Result<u32, Problem> {
        let name = value::unit(item)?;
        if !self.units().knows(&name) {
            self.diagnostics
                .report(item.span(), Problem::UnknownUnit(name.to_string()));
        }
        let names = self.units().names(&name);
        Ok(self.scopes.unit(&names))
    }

    fn cgroup(&mut self, item: &Value<'_>) -> Result<u32, Problem> {
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

    fn exe(&mut self, item: &Value<'_>) -> Result<u32, Problem> {
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

    fn uid(&mut self, item: &Value<'_>) -> Result<u32, Problem> {
        if let Some(number) = integer(item) {
            return number
                .and_then(|number| {
                    u32::try_from(number)
                        .ok()
                        .filter(|&uid| uid != u32::MAX)
                        .ok_or_else(|| number.to_string())
                })
                .map_err(Problem::UidOutOfRange);
        }
        let name = text(item).map_err(|_| wrong_type(item, "a user name or a uid"))?;
        self.env.uid(name).ok_or_else(|| Problem::UnknownUser {
            name: name.to_owned(),
            nearest: self.suggestion(|known| {
                let users = known.users().iter().map(String::as_str);
                closest(name, users).map(str::to_owned)
            }),
        })
    }
}
