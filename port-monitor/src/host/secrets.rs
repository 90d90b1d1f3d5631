//! What of a command line is usually a secret, and is not told.

/// What stands for a secret.
const MASK: &str = "***";

/// Words in the names of options and variables whose values are secrets.
const SECRET: [&str; 16] = [
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
    "bearer",
    "jwt",
    "cookie",
    "signature",
];

/// Options whose value is `user:secret`; `-u` and `-U` may end others of one letter.
const USER: [&str; 2] = ["--user", "--proxy-user"];

/// Short options whose value is a secret where this program has them, with this command, if
/// there is one.
const SHORT: [(&str, &str, &str); 6] = [
    ("sshpass", "", "-p"),
    ("redis-cli", "", "-a"),
    ("docker", "login", "-p"),
    ("podman", "login", "-p"),
    ("buildah", "login", "-p"),
    ("ldapsearch", "", "-w"),
];

/// What ends a part of a query or of a list.
const ENDS: [char; 5] = ['?', '&', ';', ',', ' '];

/// The arguments of a command without the secrets in their usual places: `--password=x`,
/// `--token x`, `-token x`, `-pX`, `KEY_SECRET=x`, `Authorization: x`, `user:x@host`,
/// `-u user:x`; also where one of these is the value of another option, or in the words
/// behind `-c`.
pub(crate) fn masked(args: &[String]) -> Vec<String> {
    let short = short_of(args);
    let mut shown = Vec::with_capacity(args.len());
    let mut before = "";
    for (at, arg) in args.iter().enumerate() {
        shown.push(match before {
            // The program's own name.
            "" if at == 0 && !arg.contains('=') => arg.clone(),
            option if is_user(option) => masked_after(arg, ':'),
            option if is_long(option) && is_secret(option) => MASK.to_owned(),
            option if short == Some(option) => MASK.to_owned(),
            "-c" if arg.contains(' ') => masked_script(arg),
            _ => masked_one(arg),
        });
        before = if arg.contains('=') { "" } else { arg };
    }
    shown
}

/// Each word of a script as if it were an argument. A header goes on to the end of its quotes.
fn masked_script(script: &str) -> String {
    let words: Vec<String> = script.split(' ').map(str::to_owned).collect();
    let mut shown = Vec::with_capacity(words.len());
    let mut is_header = false;
    for (word, masked) in words.iter().zip(masked(&words)) {
        if !is_header {
            is_header = word.ends_with(':') && is_secret(word);
            shown.push(masked);
        } else if word.ends_with(['\'', '"']) {
            is_header = false;
        }
    }
    shown.join(" ")
}

/// The short option whose value is a secret in this command.
fn short_of(args: &[String]) -> Option<&'static str> {
    let program = args.first()?.rsplit('/').next()?;
    let known = SHORT.iter().find(|(name, command, _)| {
        *name == program && (command.is_empty() || args.iter().any(|arg| arg == command))
    });
    known.map(|&(.., option)| option)
}

/// `--token`, and `-token` as some programs write it.
fn is_long(option: &str) -> bool {
    let name = option.strip_prefix('-').unwrap_or_default();
    name.len() > 1
}

/// `--user`, or short options of which the last is `-u`.
fn is_user(option: &str) -> bool {
    let short = option.strip_prefix('-').unwrap_or_default();
    let is_short = short.ends_with(['u', 'U']) && short.chars().all(|c| c.is_ascii_alphabetic());
    USER.contains(&option) || is_short && short.len() <= 3
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
    if let Some((option, value)) = arg.split_once('=')
        && USER.contains(&option)
    {
        return format!("{option}={}", masked_after(value, ':'));
    }
    let arg = without_user_info(arg);
    if let Some(shown) = masked_value(&arg) {
        return shown;
    }
    // Of a query, each part by its name.
    let parts = arg.split_inclusive(ENDS).map(|part| {
        let Some((name, _)) = part.split_once('=').filter(|(name, _)| is_secret(name)) else {
            return part.to_owned();
        };
        let end = part.trim_end_matches(ENDS);
        format!("{name}={MASK}{}", part.get(end.len()..).unwrap_or_default())
    });
    parts.collect()
}

/// All behind the first name that says so is a secret; a name may be the value of another:
/// `--header=Authorization: x`.
fn masked_value(arg: &str) -> Option<String> {
    let mut start = 0;
    for (at, separator) in arg.match_indices([':', '=']) {
        let name = arg.get(start..at)?;
        if start > 0 && name.contains(|c| ENDS.contains(&c) || c == '/') {
            return None;
        }
        if is_secret(name) {
            let separator = if arg.get(at..)?.starts_with(": ") {
                ": "
            } else {
                separator
            };
            return Some(format!("{}{separator}{MASK}", arg.get(..at)?));
        }
        start = at + 1;
    }
    None
}

/// `user:secret@` without the secret; where a web server is asked, a user alone is one.
fn without_user_info(arg: &str) -> String {
    let start = arg.find("://").map_or(0, |at| at + 3);
    let (scheme, rest) = arg.split_at(start);
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let authority = rest.get(..end).unwrap_or(rest);
    let Some(at) = authority.rfind('@') else {
        return arg.to_owned();
    };
    let Some(colon) = authority.find(':').filter(|&colon| colon < at) else {
        let is_web = scheme.ends_with("http://") || scheme.ends_with("https://");
        return match rest.get(at..).filter(|_| is_web) {
            Some(after) => format!("{scheme}{MASK}{after}"),
            None => arg.to_owned(),
        };
    };
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
    fn secrets_are_masked_where_options_have_them_and_in_scripts() {
        for (line, expected) in [
            (
                "wget|--header=Authorization: Bearer x|u",
                "wget|--header=Authorization: ***|u",
            ),
            ("wget|--header=X-Api-Key: x", "wget|--header=X-Api-Key: ***"),
            (
                "docker|run|--env=MYSQL_PASSWORD=x|i",
                "docker|run|--env=MYSQL_PASSWORD=***|i",
            ),
            ("consul|-token|x|kv", "consul|-token|***|kv"),
            ("consul|-token=x|kv", "consul|-token=***|kv"),
            ("curl|--user=ann:x", "curl|--user=ann:***"),
            ("curl|-su|ann:x", "curl|-su|ann:***"),
            ("curl|--proxy-user|ann:x", "curl|--proxy-user|ann:***"),
            ("curl|-U|ann:x", "curl|-U|ann:***"),
            ("curl|--oauth2-bearer|x", "curl|--oauth2-bearer|***"),
            ("step|--jwt|x", "step|--jwt|***"),
            ("sshpass|-p|x|ssh|h", "sshpass|-p|***|ssh|h"),
            (
                "/usr/bin/docker|login|-u|ann|-p|x",
                "/usr/bin/docker|login|-u|ann|-p|***",
            ),
            ("redis-cli|-a|x|get|k", "redis-cli|-a|***|get|k"),
            ("git|clone|https://x@h/p", "git|clone|https://***@h/p"),
            ("sh|-c|mysql -px db", "sh|-c|mysql -p*** db"),
            (
                "sh|-c|T_TOKEN=x curl -u a:x h",
                "sh|-c|T_TOKEN=*** curl -u a:*** h",
            ),
            (
                "sh|-c|curl -H 'Authorization: Bearer x' h",
                "sh|-c|curl -H 'Authorization:*** h",
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
            "git|clone|ssh://git@h:22/p",
            "docker|run|-p|80:80|i",
            "ssh|-p|22|h",
            "sh|-c|sleep 1; ls -a x",
            "find|.|-name|x",
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
