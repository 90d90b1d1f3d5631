//! What a receiver is to know us by, in files. Each is read at every batch, because it may be a
//! new one by then, and nothing in it is ever told.

use std::{fs, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::header::{self, HeaderName, HeaderValue};

use super::http::PostError;

/// Headers that say how a request is made, or what it is.
const OWN: [HeaderName; 8] = [
    header::CONNECTION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::HOST,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::USER_AGENT,
];

/// The text of a file, without the white space at its end.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, PostError> {
    let mut bytes = fs::read(path)
        .map_err(|error| PostError::Secret(format!("read {}: {error}", path.display())))?;
    bytes.truncate(bytes.trim_ascii_end().len());
    Ok(bytes)
}

/// The text of a file, as [`read`] has it.
pub(super) fn text(path: &Path) -> Result<String, PostError> {
    String::from_utf8(read(path)?).map_err(|_| not_a_line(path))
}

/// The value of a header, of these parts, which come from that file.
pub(super) fn value(path: &Path, parts: &[&[u8]]) -> Result<HeaderValue, PostError> {
    let value = HeaderValue::from_bytes(&parts.concat());
    let mut value = value.map_err(|_| not_a_line(path))?;
    value.set_sensitive(true);
    Ok(value)
}

/// A user and a password as HTTP has them.
pub(super) fn basic(user: &str, password: &[u8]) -> String {
    STANDARD.encode([user.as_bytes(), b":", password].concat())
}

/// The headers of a file: `NAME: VALUE` in each line that is not empty and no comment.
pub(super) fn headers(path: &Path) -> Result<Vec<(HeaderName, HeaderValue)>, PostError> {
    let text = text(path)?;
    let lines = (1..).zip(text.lines().map(str::trim));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let headers = lines.map(|(number, line)| {
        let wrong = |why: &str| PostError::Secret(format!("{}:{number}: {why}", path.display()));
        let (name, text) = line
            .split_once(':')
            .ok_or_else(|| wrong("no header: write `NAME: VALUE`"))?;
        let name = HeaderName::from_bytes(name.trim_end().as_bytes());
        let name = name.map_err(|_| wrong("not the name of a header"))?;
        if OWN.contains(&name) {
            return Err(wrong(&format!("`{name}` is not for a file to say")));
        }
        Ok((name, value(path, &[text.trim_start().as_bytes()])?))
    });
    headers.collect()
}

fn not_a_line(path: &Path) -> PostError {
    PostError::Secret(format!("{}: no line of text", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_lines_and_what_is_wrong_is_told_without_its_value() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("headers");
        fs::write(&path, "# of the vendor\n\nx-team : a b\nAPI-Key:c:d\n").unwrap();
        let headers = headers(&path).unwrap();
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        assert_eq!(headers, [("x-team", "a b"), ("api-key", "c:d")]);
        for (text, told) in [
            ("a: b\nsecret", ":2: no header: write `NAME: VALUE`"),
            ("a b: secret", ":1: not the name of a header"),
            ("Host: secret", ":1: `host` is not for a file to say"),
            ("a: sec\u{1}ret", ": no line of text"),
        ] {
            fs::write(&path, text).unwrap();
            let told_of = super::headers(&path).unwrap_err().to_string();
            assert_eq!(told_of, format!("{}{told}", path.display()), "{text}");
        }
    }

    #[test]
    fn a_user_and_a_password_are_those_of_the_standard() {
        assert_eq!(
            basic("Aladdin", b"open sesame"),
            "QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
        );
    }
}
