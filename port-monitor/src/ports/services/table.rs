//! A table of services: tab-separated text with an index over its rows, which
//! the compiler computes, so that a look-up costs no start-up time and the text
//! stays the only source.
//!
//! A row is `port` or `first-last`, name, description and status. Rows of equal
//! ports stand together, the name to show first; apart from that ports ascend
//! and do not overlap. Lines that do not start with a digit are comments.

use std::ops::RangeInclusive;

use crate::ports::class::ServiceStatus;

/// A table of `N` rows.
pub(crate) struct Table<const N: usize> {
    text: &'static str,
    index: [Indexed; N],
    /// The first row of each group of rows that begin with one port.
    groups: [u16; N],
    /// Where groups begin: a bit for each port, so that counting bits is all there is
    /// to a search; and the groups that begin before each word of them.
    begins: [u64; WORDS],
    before: [u16; WORDS],
    /// Whether a row holds for more than the port it begins with.
    has_ranges: bool,
}

/// Ports of a word, and words.
const WORD: usize = u64::BITS as usize;
const WORDS: usize = (1 << 16) / WORD;

/// What the index knows of a row besides its first port.
#[derive(Clone, Copy)]
struct Indexed {
    /// Where the name starts in the text.
    name_offset: u32,
    name_len: u8,
    status: ServiceStatus,
    first_port: u16,
    last_port: u16,
}

/// One row of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) ports: RangeInclusive<u16>,
    /// Empty when the ports have no name.
    pub(crate) name: &'static str,
    /// May be empty.
    pub(crate) description: &'static str,
    pub(crate) status: ServiceStatus,
}

impl<const N: usize> Table<N> {
    /// Indexes `text`, which must have `N` rows ([`row_count`]). Evaluated by
    /// the compiler, where a panic is a compile error.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "asserted, and a word has 64 bits"
    )]
    pub(crate) const fn new(text: &'static str) -> Self {
        let nothing = Indexed {
            name_offset: 0,
            name_len: 0,
            status: ServiceStatus::Unassigned,
            first_port: 0,
            last_port: 0,
        };
        let mut table = Self {
            text,
            index: [nothing; N],
            groups: [0; N],
            begins: [0; WORDS],
            before: [0; WORDS],
            has_ranges: false,
        };
        let mut cursor = Cursor::new(text);
        let (mut count, mut groups) = (0, 0);
        while let Some(row) = cursor.next_row() {
            let last = if count > 0 {
                table.index[count - 1]
            } else {
                nothing
            };
            let is_another =
                count > 0 && last.first_port == row.first_port && last.last_port == row.last_port;
            assert!(
                count == 0 || is_another || last.last_port < row.first_port,
                "ports neither ascend nor are those of the row before"
            );
            if !is_another {
                assert!(count <= u16::MAX as usize, "a row's number is a u16");
                table.groups[groups] = count as u16;
                groups += 1;
                let port = row.first_port as usize;
                table.begins[port / WORD] |= 1 << (port % WORD);
            }
            table.has_ranges |= row.first_port != row.last_port;
            table.index[count] = row;
            count += 1;
        }
        let mut word = 1;
        while word < WORDS {
            let begun = table.begins[word - 1].count_ones() as u16;
            table.before[word] = table.before[word - 1] + begun;
            word += 1;
        }
        table
    }

    /// The name to show for `port`, empty if it has none, and its status;
    /// `None` for a port that is not in the table.
    pub(crate) fn lookup(&self, port: u16) -> Option<(&'static str, ServiceStatus)> {
        let row = *self.index.get(self.first_row(port)?)?;
        Some((self.name(row), row.status))
    }

    /// The rows of `port`, the name to show first.
    pub(crate) fn rows(&self, port: u16) -> impl Iterator<Item = Row> {
        let first_row = self.first_row(port).unwrap_or(N);
        (first_row..N)
            .map_while(|row| self.row(row))
            .take_while(move |row| row.ports.contains(&port))
    }

    /// The rows named `name`, whatever its case.
    pub(crate) fn rows_named(&self, name: &str) -> impl Iterator<Item = Row> {
        (0..N)
            .filter(move |&row| {
                self.index.get(row).is_some_and(|&row| {
                    row.name_len != 0 && self.name(row).eq_ignore_ascii_case(name)
                })
            })
            .filter_map(|row| self.row(row))
    }

    /// Every name, in order of ports.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        let names = self.index.iter().map(|&row| self.name(row));
        names.filter(|name| !name.is_empty())
    }

    /// The first of the rows that hold for `port`.
    fn first_row(&self, port: u16) -> Option<usize> {
        let (word, bit) = (usize::from(port) / WORD, usize::from(port) % WORD);
        let begun = self.begins.get(word)? << (WORD - 1 - bit);
        if !self.has_ranges && begun.leading_zeros() > 0 {
            return None;
        }
        let groups = usize::from(*self.before.get(word)?) + begun.count_ones() as usize;
        let first_row = usize::from(*self.groups.get(groups.checked_sub(1)?)?);
        (self.index.get(first_row)?.last_port >= port).then_some(first_row)
    }

    fn row(&self, row: usize) -> Option<Row> {
        let row = *self.index.get(row)?;
        let rest = self.text_from(row.name_offset as usize + usize::from(row.name_len));
        let mut fields = rest.lines().next().unwrap_or_default().split('\t').skip(1);
        Some(Row {
            ports: row.first_port..=row.last_port,
            name: self.name(row),
            description: fields.next().unwrap_or_default(),
            status: row.status,
        })
    }

    fn name(&self, row: Indexed) -> &'static str {
        let name = self.text_from(row.name_offset as usize);
        name.get(..usize::from(row.name_len)).unwrap_or_default()
    }

    fn text_from(&self, offset: usize) -> &'static str {
        self.text.get(offset..).unwrap_or_default()
    }
}

/// The `N` of the [`Table`] of `text`.
pub(crate) const fn row_count(text: &str) -> usize {
    let mut cursor = Cursor::new(text);
    let mut count = 0;
    while cursor.next_row().is_some() {
        count += 1;
    }
    count
}

/// Reads a table's text row by row in a constant expression, where neither
/// iterators nor the methods of `str` are available.
struct Cursor<'a> {
    text: &'a [u8],
    offset: usize,
}

impl<'a> Cursor<'a> {
    const fn new(text: &'a str) -> Self {
        Self {
            text: text.as_bytes(),
            offset: 0,
        }
    }

    /// The next row; `None` at the end.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the text is far shorter than 4 GiB, and the length is asserted"
    )]
    const fn next_row(&mut self) -> Option<Indexed> {
        while self.offset < self.text.len() {
            let Some(first_port) = self.number() else {
                self.skip_line();
                continue;
            };
            let last_port = match (self.skip(b'-'), self.number()) {
                (true, Some(last_port)) => last_port,
                (false, None) => first_port,
                (true, None) | (false, Some(_)) => panic!("a range is two ports"),
            };
            assert!(self.skip(b'\t'), "a name follows the ports");
            let name_offset = self.offset as u32;
            let name_len = self.skip_field();
            assert!(name_len <= u8::MAX as usize, "a name has at most 255 bytes");
            if self.skip(b'\t') {
                self.skip_field();
            }
            let status = match (self.skip(b'\t'), self.peek()) {
                (false, _) => ServiceStatus::Assigned,
                (true, Some(b'r')) => ServiceStatus::Reserved,
                (true, Some(b'u')) => ServiceStatus::Unassigned,
                (true, _) => panic!("a status is reserved or unassigned"),
            };
            self.skip_line();
            let row = Indexed {
                name_offset,
                name_len: name_len as u8,
                status,
                first_port,
                last_port,
            };
            return Some(row);
        }
        None
    }

    const fn peek(&self) -> Option<u8> {
        if self.offset < self.text.len() {
            Some(self.text[self.offset])
        } else {
            None
        }
    }

    /// Goes past `byte` if it is here.
    const fn skip(&mut self, byte: u8) -> bool {
        let here = matches!(self.peek(), Some(found) if found == byte);
        if here {
            self.offset += 1;
        }
        here
    }

    /// Goes past the field here, and says how long it is.
    const fn skip_field(&mut self) -> usize {
        let start = self.offset;
        while !matches!(self.peek(), None | Some(b'\t' | b'\n')) {
            self.offset += 1;
        }
        self.offset - start
    }

    const fn skip_line(&mut self) {
        while !matches!(self.peek(), None | Some(b'\n')) {
            self.offset += 1;
        }
        self.offset += 1;
    }

    /// Goes past the number here, if there is one.
    const fn number(&mut self) -> Option<u16> {
        let mut number = None;
        while let Some(digit @ b'0'..=b'9') = self.peek() {
            let tens = match number {
                Some(number) => number * 10,
                None => 0,
            };
            number = Some(tens + (digit - b'0') as u16);
            self.offset += 1;
        }
        number
    }
}

#[cfg(test)]
mod tests {
    use crate::ports::services::table::*;

    const TEXT: &str = "# a comment\tnot-a-name\n7\techo\tEcho\n80\thttp\tWeb\n80\twww\n\
                        90-99\t\t\treserved\n200\t\tprivate use\n";

    static TABLE: Table<{ row_count(TEXT) }> = Table::new(TEXT);

    fn names(port: u16) -> Vec<&'static str> {
        TABLE.rows(port).map(|row| row.name).collect()
    }

    #[test]
    fn port_has_the_names_of_its_rows_and_no_other() {
        assert_eq!(names(7), ["echo"]);
        assert_eq!(names(80), ["http", "www"]);
        for port in [0, 6, 8, 79, 81, 89, 100, u16::MAX] {
            assert_eq!(names(port), [""; 0], "{port}");
        }
    }

    /// Rows at the borders of words, and some across them.
    const BORDERS: &str = "0\tzero\t\n63\tlast\t\n64\tfirst\t\n255\tlast\t\n256\tfirst\t\n256\talias\t\n\
                           500-800\tacross\t\n1024\tnext\t\n65535\tend\t\n";

    fn assert_finds_what_a_look_at_every_row_does<const N: usize>(table: &Table<N>) {
        let rows: Vec<Row> = (0..N).map(|row| table.row(row).unwrap()).collect();
        for port in 0..=u16::MAX {
            let expected: Vec<_> = rows
                .iter()
                .filter(|row| row.ports.contains(&port))
                .cloned()
                .collect();
            assert_eq!(table.rows(port).collect::<Vec<_>>(), expected, "{port}");
        }
    }

    #[test]
    fn counting_finds_what_a_look_at_every_row_does() {
        static TABLE: Table<{ row_count(BORDERS) }> = Table::new(BORDERS);
        assert_finds_what_a_look_at_every_row_does(&TABLE);
    }

    #[test]
    fn a_table_without_ranges_has_its_ports_and_no_other() {
        const PORTS: &str = "0\tzero\n63\tlast\n64\tfirst\n64\talias\n65535\tend\n";
        static TABLE: Table<{ row_count(PORTS) }> = Table::new(PORTS);
        assert_finds_what_a_look_at_every_row_does(&TABLE);
    }

    #[test]
    fn range_holds_for_its_first_and_last_port() {
        for port in [90, 95, 99] {
            let rows: Vec<_> = TABLE.rows(port).collect();
            assert_eq!(
                rows,
                [Row {
                    ports: 90..=99,
                    name: "",
                    description: "",
                    status: ServiceStatus::Reserved
                }]
            );
        }
    }

    #[test]
    fn port_may_be_assigned_without_a_name() {
        let row = TABLE.rows(200).next().unwrap();
        assert_eq!(row.description, "private use");
        assert_eq!(row.status, ServiceStatus::Assigned);
    }

    #[test]
    fn names_are_found_in_any_case_and_comments_are_none() {
        assert_eq!(TABLE.rows_named("WWW").next().unwrap().ports, 80..=80);
        assert_eq!(TABLE.rows_named("not-a-name").next(), None);
        assert_eq!(TABLE.rows_named("").next(), None);
        assert_eq!(TABLE.names().collect::<Vec<_>>(), ["echo", "http", "www"]);
    }
}
