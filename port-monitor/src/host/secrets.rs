//! What of a command line is usually a secret, and is not told.

/// What stands for a secret.
const MASK: &str = "***";

/// Words in the names of options and variables whose values are secrets.
const SECRET: [&str; 14] = [
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "pass",
    "secret",
    "token",
    "apikey",
    "accesskey",
    "privatekey",
    "credential",
    "authorization",
    "cookie",
    "signature",
];

/// The arguments of a command without the secrets in their usual places: `--password=x`,
/// `--token x`, `-pX`, `KEY_SECRET=x`, `Authorization: x`, `user:x@host`, `-u user:x`.
pub(crate) fn masked(args: &[String]) -> Vec<String> {
    let mut shown = Vec::with_capacity(args.len());
    let mut before = "";
    for (at, arg) in args.iter().enumerate() {
        shown.push(match before {
            // The program's own name.
            "" if at == 0 => arg.clone(),
            "-u" | "--user" => masked_after(arg, ':'),
            option if option.starts_with("--") && is_secret(option) => MASK.to_owned(),
            _ => masked_one(arg),
        });
        before = if arg.contains('=') { "" } else { arg };
    }
    shown
}

fn masked_one(arg: &str) -> String {
    if let Some(rest) = arg.strip_prefix("-p")
        && !rest.is_empty()
    {
        return format!("-p{MASK}");
    }
    if let Some(rest) = arg.strip_prefix("-u")
        && rest.contains(':')
    {
        return masked_after(arg, ':');
    }
    let arg = without_user_info(arg);
    let Some(at) = arg.find([':', '=']) else {
        return arg;
    };
    let (name, value) = arg.split_at(at);
    if is_secret(name) {
        let separator = if value.starts_with(": ") {
            ": "
        } else {
            &value[..1]
        };
        return format!("{name}{separator}{MASK}");
    }
    // Of a query, each part by its name.
    let parts = arg.split_inclusive(['?', '&', ';', ',', ' ']).map(|part| {
        let Some((name, _)) = part.split_once('=').filter(|(name, _)| is_secret(name)) else {
            return part.to_owned();
        };
        let end = part.trim_end_matches(['?', '&', ';', ',', ' ']);
        format!("{name}={MASK}{}", part.get(end.len()..).unwrap_or_default())
    });
    parts.collect()
}

/// `user:secret@` without the secret.
fn without_user_info(arg: &str) -> String {
    let start = arg.find("://").map_or(0, |at| at + 3);
    let (scheme, rest) = arg.split_at(start);
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let authority = rest.get(..end).unwrap_or(rest);
    let Some((at, colon)) = authority.rfind('@').zip(authority.find(':')) else {
        return arg.to_owned();
    };
    if colon > at {
        return arg.to_owned();
    }
    let (before, _) = rest.split_at(colon + 1);
    let (_, after) = rest.split_at(at);
    format!("{scheme}{before}{MASK}{after}")
}

fn masked_after(arg: &str, separator: char) -> String {
    match arg.split_once(separator) {
        Some((before, _)) => format!("{before}{separator}{MASK}"),
        None => arg.to_owned(),
    }
}

/// Whether the name says that the value is a secret; letters only, whatever the spelling.
fn is_secret(name: &str) -> bool {
    let letters = name.chars().filter(char::is_ascii_alphanumeric);
    let name: String = letters.map(|c| c.to_ascii_lowercase()).collect();
    SECRET.iter().any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::host::secrets::*;

    fn shown(line: &str) -> String {
        let args: Vec<String> = line.split('|').map(str::to_owned).collect();
        masked(&args).join("|")
    }

    #[test]
    fn secrets_are_masked_in_their_usual_places() {
        for (line, expected) in [
            ("mysql|-phunter2|-h|db", "mysql|-p***|-h|db"),
            ("psql|--password=x|db", "psql|--password=***|db"),
            (
                "vault|--client-token|x|read",
                "vault|--client-token|***|read",
            ),
            ("env|PGPASSWORD=x|psql", "env|PGPASSWORD=***|psql"),
            (
                "env|AWS_SECRET_ACCESS_KEY=x",
                "env|AWS_SECRET_ACCESS_KEY=***",
            ),
            ("curl|-u|ann:x|http://h/", "curl|-u|ann:***|http://h/"),
            ("curl|-uann:x", "curl|-uann:***"),
            (
                "curl|https://ann:x@h:8443/p",
                "curl|https://ann:***@h:8443/p",
            ),
            ("git|clone|https://x:y:z@h/p", "git|clone|https://x:***@h/p"),
            (
                "curl|-H|Authorization: Bearer x",
                "curl|-H|Authorization: ***",
            ),
            ("curl|-H|X-Api-Key: x", "curl|-H|X-Api-Key: ***"),
            (
                "curl|http://h/?a=1&api_key=x&b=2",
                "curl|http://h/?a=1&api_key=***&b=2",
            ),
        ] {
            assert_eq!(shown(line), expected);
        }
    }

    #[test]
    fn the_rest_is_told_as_it_is() {
        for line in [
            "curl|-v|https://h:8443/p?a=1",
            "ssh|-l|ann|h",
            "nc|::1|80",
            "/opt/pass:word/tool|x",
            "scp|f|ann@h:/tmp",
        ] {
            assert_eq!(shown(line), line);
        }
    }

    proptest! {
        #[test]
        fn any_arguments_are_taken(args in prop::collection::vec(any::<String>(), 0..6)) {
            prop_assert_eq!(masked(&args).len(), args.len());
        }
    }
}
