//! Messages of Protocol Buffers, written and read field by field.

/// How a field is encoded.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

/// A message that is being written.
#[derive(Debug, Default)]
pub(super) struct Message(Vec<u8>);

impl Message {
    /// As it goes over the wire.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn number(&mut self, field: u64, number: u64) {
        self.tag(field, VARINT);
        self.varint(number);
    }

    pub(super) fn fixed64(&mut self, field: u64, number: u64) {
        self.tag(field, FIXED64);
        self.0.extend(number.to_le_bytes());
    }

    pub(super) fn text(&mut self, field: u64, text: &str) {
        self.bytes(field, text.as_bytes());
    }

    pub(super) fn message(&mut self, field: u64, message: &Self) {
        self.bytes(field, &message.0);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.tag(field, BYTES);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
    }

    fn tag(&mut self, field: u64, encoding: u64) {
        self.varint(field << 3 | encoding);
    }

    fn varint(&mut self, mut number: u64) {
        while number > 0x7f {
            self.0.push(number.to_le_bytes()[0] | 0x80);
            number >>= 7;
        }
        self.0.push(number.to_le_bytes()[0]);
    }
}

/// The last number of a message in that field, as far as the message can be read.
pub(super) fn number_in(message: &[u8], field: u64) -> Option<u64> {
    let numbers = Fields(message).filter_map(|(of, value)| match value {
        Value::Number(number) if of == field => Some(number),
        _ => None,
    });
    numbers.last()
}

/// The last bytes of a message in that field, as far as the message can be read.
pub(super) fn bytes_in(message: &[u8], field: u64) -> Option<&[u8]> {
    let all = Fields(message).filter_map(|(of, value)| match value {
        Value::Bytes(bytes) if of == field => Some(bytes),
        _ => None,
    });
    all.last()
}

/// The fields of a message that was received, up to one that is none.
struct Fields<'m>(&'m [u8]);

enum Value<'m> {
    Number(u64),
    Bytes(&'m [u8]),
    /// Nothing that is asked for.
    Other,
}

impl<'m> Fields<'m> {
    fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.bytes(1)?[0];
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn bytes(&mut self, count: usize) -> Option<&'m [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }
}

impl<'m> Iterator for Fields<'m> {
    type Item = (u64, Value<'m>);

    fn next(&mut self) -> Option<Self::Item> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            VARINT => Value::Number(self.varint()?),
            FIXED64 => self.bytes(8).map(|_| Value::Other)?,
            BYTES => {
                let count = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.bytes(count)?)
            }
            FIXED32 => self.bytes(4).map(|_| Value::Other)?,
            _ => return None,
        };
        Some((tag >> 3, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        for number in [0, 1, 127, 128, 300, u64::MAX] {
            let mut inner = Message::default();
            inner.number(1, number);
            inner.fixed64(20, number);
            let mut outer = Message::default();
            outer.text(2, "a text");
            outer.message(16, &inner);
            let bytes = outer.into_bytes();
            assert_eq!(bytes_in(&bytes, 2), Some("a text".as_bytes()));
            let inner = bytes_in(&bytes, 16).unwrap();
            assert_eq!(number_in(inner, 1), Some(number));
            assert_eq!(number_in(inner, 20), None);
        }
    }

    /// Whoever answers may be no server of this kind.
    #[test]
    fn what_is_no_message_has_nothing() {
        let endless = [0xff; 99];
        for bytes in [&b"OK\n"[..], b"{}", b"\x0a\x7f", b"\x0a", &endless, b""] {
            assert_eq!(bytes_in(bytes, 1), None, "{bytes:?}");
            assert_eq!(number_in(bytes, 1), None, "{bytes:?}");
        }
    }
}
