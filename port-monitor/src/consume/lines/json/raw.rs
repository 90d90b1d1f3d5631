//! The bytes of names that are not UTF-8: few lines have any.

use super::line::Line;

/// Appends a field to others, if its bytes are not UTF-8.
pub(crate) fn push_field(fields: &mut Vec<u8>, name: &str, bytes: &[u8]) {
    if str::from_utf8(bytes).is_ok() {
        return;
    }
    if !fields.is_empty() {
        fields.push(b',');
    }
    let mut line = Line(fields);
    line.raw(name);
    line.hex_string(bytes);
}

/// Appends `raw` with the fields of both, if there are any.
pub(crate) fn push(line: &mut Line<'_>, owners: &[u8], peers: &[u8]) {
    if owners.is_empty() && peers.is_empty() {
        return;
    }
    line.raw(r#","raw":{"#);
    line.rendered(owners);
    if !owners.is_empty() && !peers.is_empty() {
        line.raw(",");
    }
    line.rendered(peers);
    line.raw("}");
}
