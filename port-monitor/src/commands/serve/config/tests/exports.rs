//! What `[export.NAME]` says, and what is told where it is wrong.

use super::*;

#[test]
fn an_export_has_a_receiver_and_a_history() {
    for (text, told) in [
        (
            "[export]\none = 1\n",
            "4:7: expected a table, found integer",
        ),
        (
            "[export.one]\nurl = \"http://a\"\n",
            "3:1: `type` is missing",
        ),
        (
            "[export.one]\ntype = \"clickhouse\"\n",
            "3:1: `url` is missing",
        ),
        (
            "[export.One]\ntype = \"clickhouse\"\nurl = \"http://a\"\n",
            "3:9: not the name of an export: write up to 32 of a-z, 0-9 and `-`",
        ),
        (
            "[export.one]\ntype = \"natz\"\nurl = \"http://a\"\n",
            "4:8: expected clickhouse or otlp or nats, found `natz`",
        ),
        (
            "[export.one]\ntype = \"clickhouse\"\nurl = \"http://a\"\ntabel = \"a\"\n",
            "6:1: unknown key `tabel`",
        ),
        (
            "[export.one]\ntype = \"clickhouse\"\nurl = 1\n",
            "5:7: expected text in quotes, found integer",
        ),
        (
            "[export.one]\ntype = \"clickhouse\"\nurl = \"http://a\"\nbatch = true\n",
            "6:9: expected a number, or text in quotes, found boolean",
        ),
        (
            "[export.one]\ntype = \"clickhouse\"\nurl = \"http://a\"\nevery = 10\n",
            "6:9: `10` has no unit: write 1s or more",
        ),
        (
            "[export.one]\ntype = \"clickhouse\"\nurl = \"http://a\"\nca-file = \"/a\"\n",
            "6:1: it is for `https://`: write that in `url`, or take this away",
        ),
        (
            "[export.one]\ntype = \"clickhouse\"\nurl = \"https://a\"\nkey-file = \"/a\"\n",
            "6:1: the key of no certificate: add `certificate-file`",
        ),
    ] {
        assert_eq!(wrong(&format!("{HISTORY}{text}")).0, told, "{text}");
    }
    let none = wrong(&format!("export = 1\n{HISTORY}")).0;
    assert_eq!(none, "1:10: expected a table, found integer");
    let alone = wrong(EXPORT).0;
    assert_eq!(
        alone,
        "1:2: an export sends the history: add [history] with its file"
    );
}

/// Each key means something to the kind of receiver, or is told.
#[test]
fn an_export_has_the_keys_of_its_kind() {
    for (kind, keys, told) in [
        (
            "otlp",
            "table = \"a\"\n",
            "6:1: it is for `type = \"clickhouse\"`: take it away",
        ),
        (
            "clickhouse",
            "token-file = \"/a\"\n",
            "6:1: it is for `type = \"otlp\"` or `\"nats\"`: take it away",
        ),
        (
            "clickhouse",
            "headers-file = \"/a\"\n",
            "6:1: it is for `type = \"otlp\"`: take it away",
        ),
        (
            "otlp",
            "user = \"u\"\ntoken-file = \"/a\"\n",
            "7:1: it does not go with `user`: keep one of both",
        ),
        (
            "otlp",
            "subject = \"a\"\n",
            "6:1: it is for `type = \"nats\"`: take it away",
        ),
        ("otlp", "user = \"u\"\n", "6:1: it needs `password-file`"),
        ("otlp", "password-file = \"/a\"\n", "6:1: it needs `user`"),
    ] {
        let text = format!("{HISTORY}[export.one]\ntype = \"{kind}\"\nurl = \"http://a\"\n{keys}");
        assert_eq!(wrong(&text).0, told, "{text}");
    }
}

#[test]
fn an_export_has_the_address_of_its_kind() {
    for (kind, url, told) in [
        (
            "nats",
            "\"http://a\"",
            "NATS is asked by `nats://` or `tls://`",
        ),
        (
            "nats",
            "\"nats://a/b\"",
            "a path means nothing to NATS: take it away, and write `subject`",
        ),
        (
            "otlp",
            "\"nats://a\"",
            "`nats://` and `tls://` are for `type = \"nats\"`",
        ),
        (
            "otlp",
            "[\"http://a\", \"http://b\"]",
            "several servers are for `type = \"nats\"`: write one",
        ),
        (
            "nats",
            "\"nats://a,tls://b\"",
            "servers of one receiver are asked alike: begin all with the same",
        ),
    ] {
        let text = format!("{HISTORY}[export.one]\ntype = \"{kind}\"\nurl = {url}\n");
        assert_eq!(wrong(&text).0, format!("5:1: {told}"), "{text}");
    }
    for url in ["\"nats://a,nats://b:1\"", "[\"nats://a\", \"nats://b:1\"]"] {
        let text = format!("{HISTORY}[export.one]\ntype = \"nats\"\nurl = {url}\n");
        let Read { exports, .. } = read("c.toml".to_owned(), text).unwrap();
        assert_eq!(exports["one"].url, "nats://a,nats://b:1".parse().unwrap());
    }
}

#[test]
fn each_export_is_what_its_table_says() {
    let text = format!(
        "{HISTORY}{EXPORT}[export.two]\ntype = \"clickhouse\"\nurl = \"http://b/\"\n\
         table = \"f.c\"\nuser = \"u\"\npassword-file = \"/p\"\nbatch = 5\nevery = \"2m\"\n"
    );
    let Read { asked, exports, .. } = read("c.toml".to_owned(), text).unwrap();
    assert_eq!(asked.len(), 1, "{asked:?}");
    let names: Vec<&String> = exports.keys().collect();
    assert_eq!(names, ["one", "two"]);
    let (one, two) = (&exports["one"], &exports["two"]);
    assert_eq!((one.table.as_deref(), one.batch), (None, 10_000));
    assert_eq!((one.every.as_secs(), &one.user), (10, &None));
    assert_eq!((two.table.as_deref(), two.batch), (Some("f.c"), 5));
    assert_eq!((two.every.as_secs(), two.user.as_deref()), (120, Some("u")));
    assert_eq!(two.password_file.as_deref(), Some(Path::new("/p")));
}
