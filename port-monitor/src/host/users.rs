//! Users by name, as this host knows them: one answer for the command line, filters,
//! policies and cases.

use std::fs;

use thiserror::Error;

use crate::ports::services::closest;

/// Neither a user of this host nor a uid.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("unknown user `{}`: {}", name.escape_debug(), self.help())]
pub struct UnknownUser {
    /// What was written.
    pub name: String,
    /// A user with a name much like it.
    pub suggestion: Option<String>,
}

impl UnknownUser {
    fn help(&self) -> String {
        if let Some(known) = &self.suggestion {
            return format!("did you mean `{known}`?");
        }
        let digits = self.name.strip_prefix('+').unwrap_or(&self.name);
        if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return "a uid is a number from 0 to 4294967294 without leading zeros".to_owned();
        }
        "give a name of this host or a uid".to_owned()
    }
}

/// The uid of the user of that name. A name may consist of digits, and be no uid.
pub fn uid_of_name(name: &str) -> Option<u32> {
    uzers::get_user_by_name(name).map(|user| user.uid())
}

/// The uid of a user, given by name or by number: a name comes first, as for `chown`,
/// and `+1000` is always the number.
pub fn uid(user: &str) -> Result<u32, UnknownUser> {
    uid_by(user, uid_of_name).ok_or_else(|| UnknownUser {
        name: user.to_owned(),
        // Users of the network are not in this file: they are found, but not guessed.
        suggestion: closest(user, names().iter().map(String::as_str)).map(ToOwned::to_owned),
    })
}

fn uid_by(user: &str, named: impl Fn(&str) -> Option<u32>) -> Option<u32> {
    if let Some(digits) = user.strip_prefix('+') {
        return number(digits);
    }
    named(user).or_else(|| number(user))
}

/// A uid as people write it. `007` is none: it looks like a name.
fn number(digits: &str) -> Option<u32> {
    let uid: u32 = digits.parse().ok()?;
    // The kernel's own "no user" is none to look for.
    (uid != u32::MAX && uid.to_string() == digits).then_some(uid)
}

/// The users of `/etc/passwd`, for suggestions.
pub fn names() -> Vec<String> {
    let local = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let names = local.lines().filter_map(|line| line.split(':').next());
    names.map(ToOwned::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use crate::host::users::*;

    fn named(name: &str) -> Option<u32> {
        let users = [
            ("root", 0),
            ("1000", 5000),
            ("007", 7007),
            ("bob@example.org", 8),
            ("k\u{fc}che", 9),
            ("dom\\bob", 10),
        ];
        let user = users.iter().find(|(known, _)| *known == name);
        user.map(|&(_, uid)| uid)
    }

    #[test]
    fn a_name_comes_before_a_number_and_plus_means_the_number() {
        for (user, uid) in [
            ("root", Some(0)),
            ("1000", Some(5000)),
            ("+1000", Some(1000)),
            ("1001", Some(1001)),
            ("007", Some(7007)),
            ("+007", None),
            ("008", None),
            ("0", Some(0)),
            ("bob@example.org", Some(8)),
            ("k\u{fc}che", Some(9)),
            ("dom\\bob", Some(10)),
            ("4294967294", Some(4_294_967_294)),
            ("4294967295", None),
            ("4294967296", None),
            ("-1", None),
            ("++1", None),
            ("+", None),
            ("", None),
            ("nobody-here", None),
        ] {
            assert_eq!(uid_by(user, named), uid, "{user}");
        }
    }

    #[test]
    fn the_message_says_what_a_uid_looks_like() {
        assert_eq!(
            uid("0017").unwrap_err().to_string(),
            "unknown user `0017`: a uid is a number from 0 to 4294967294 without leading zeros"
        );
    }
}
