//! What a server of NATS gets, and what becomes of rows by its answers.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    sync::mpsc::{Receiver, channel},
};

use flate2::read::GzDecoder;

use super::*;

/// What a server does with a connection.
#[derive(Clone, Copy, Debug)]
enum Does {
    /// It says this first.
    Greets(&'static str),
    /// It says this to whoever says who it is.
    Refuses(&'static str),
    /// It says this to what is published.
    Says(&'static str),
    /// It answers with this to what is published.
    Acks(&'static str),
    /// It goes away then.
    Closes,
    /// It is silent then.
    Hangs,
}

const ACK: Does = Does::Acks(r#"{"stream":"FLEET","seq":1}"#);
const INFO: &str = r#"INFO {"headers":true,"max_payload":1048576}"#;

/// What was published.
#[derive(Debug)]
struct Published {
    connect: Value,
    subject: String,
    headers: String,
    rows: Vec<Value>,
}

impl Published {
    fn ids(&self) -> Vec<u64> {
        let ids = self.rows.iter().map(|row| row["connection_id"].as_u64());
        ids.map(Option::unwrap).collect()
    }

    fn message_id(&self) -> &str {
        let mut lines = self.headers.lines();
        let id = lines.find_map(|line| line.strip_prefix("Nats-Msg-Id: "));
        id.unwrap()
    }
}

/// A server that treats one connection after the other as it is told.
fn serve(does: Vec<Does>, info: &'static str) -> (SocketAddr, Receiver<Published>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, received) = channel();
    thread::spawn(move || {
        let mut silent = Vec::new();
        for does in does {
            let (stream, _) = listener.accept().unwrap();
            let mut stream = BufReader::new(stream);
            if let Some(published) = talk(&mut stream, does, info) {
                // Whoever asks may have had enough of the test.
                let _ = sender.send(published);
            }
            if let Does::Hangs = does {
                silent.push(stream);
            }
        }
        let _ = listener.accept();
    });
    (address, received)
}

fn talk(stream: &mut BufReader<std::net::TcpStream>, does: Does, info: &str) -> Option<Published> {
    let greeting = if let Does::Greets(greeting) = does {
        greeting
    } else {
        info
    };
    write!(stream.get_mut(), "{greeting}\r\n").unwrap();
    let mut line = || {
        let mut line = String::new();
        let count = stream.read_line(&mut line).unwrap_or_default();
        (count > 0).then(|| line.trim_end().to_owned())
    };
    let connect = line()?;
    let connect = serde_json::from_str(connect.strip_prefix("CONNECT ")?).unwrap();
    assert_eq!(line()?, "PING");
    if let Does::Refuses(error) = does {
        write!(stream.get_mut(), "{error}\r\n").unwrap();
        return None;
    }
    // It looks whether we are there, too.
    write!(stream.get_mut(), "PING\r\nPONG\r\n").unwrap();
    let mut line = || {
        let mut line = String::new();
        let count = stream.read_line(&mut line).unwrap_or_default();
        (count > 0).then(|| line.trim_end().to_owned())
    };
    assert_eq!(line()?, "PONG");
    let subscribed = line()?;
    let published = line()?;
    let words: Vec<&str> = published.split(' ').collect();
    let [hpub, subject, inbox, of_headers, size] = words[..] else {
        panic!("{published}");
    };
    assert_eq!((hpub, &*subscribed), ("HPUB", &*format!("SUB {inbox} 1")));
    let mut message = vec![0; size.parse::<usize>().unwrap() + 2];
    stream.read_exact(&mut message).unwrap();
    let (headers, rest) = message.split_at(of_headers.parse().unwrap());
    let payload = rest.strip_suffix(b"\r\n").unwrap();
    let mut text = String::new();
    GzDecoder::new(payload).read_to_string(&mut text).unwrap();
    match does {
        Does::Says(text) => write!(stream.get_mut(), "{text}\r\n").unwrap(),
        Does::Acks(text) => {
            let length = text.len();
            write!(stream.get_mut(), "MSG {inbox} 1 {length}\r\n{text}\r\n").unwrap();
        }
        _ => {}
    }
    Some(Published {
        connect,
        subject: subject.to_owned(),
        headers: String::from_utf8(headers.to_vec()).unwrap(),
        rows: text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect(),
    })
}

fn settings(addresses: &[SocketAddr]) -> Settings {
    let urls: Vec<String> = addresses
        .iter()
        .map(|address| format!("nats://{address}"))
        .collect();
    Settings {
        kind: Kind::Nats,
        url: urls.join(",").parse().unwrap(),
        ..super::settings(addresses[0])
    }
}

#[test]
fn a_batch_is_a_message_with_an_id_and_who_asks_is_in_files() {
    let (address, got) = serve(vec![ACK; 2], INFO);
    let mut place = Place::new();
    let file = place.dir.path().join("secret");
    fs::write(&file, "s3\n").unwrap();
    let by_password = Settings {
        user: Some("fleet".to_owned()),
        password_file: Some(file.clone()),
        ..settings(&[address])
    };
    let by_token = Settings {
        token_file: Some(file),
        subject: Some("a.b".to_owned()),
        ..settings(&[address])
    };
    let mut ids = Vec::new();
    for (number, (settings, subject)) in
        (0..).zip([(by_password, "fleet.connections"), (by_token, "a.b")])
    {
        let mut sender = place.sender(&settings);
        place.record(number..number + 1);
        block_on(sender.round());
        let got = got.try_recv().unwrap();
        assert_eq!((&*got.subject, got.ids()), (subject, vec![number]));
        assert!(got.headers.starts_with("NATS/1.0\r\n") && got.headers.ends_with("\r\n\r\n"));
        assert!(got.headers.contains("\r\nContent-Encoding: gzip\r\n"));
        ids.push(got.message_id().to_owned());
        let told = [
            &got.connect["user"],
            &got.connect["pass"],
            &got.connect["auth_token"],
        ];
        let expected = match number {
            0 => [Value::from("fleet"), "s3".into(), Value::Null],
            _ => [Value::Null, Value::Null, "s3".into()],
        };
        assert_eq!(told.map(Clone::clone), expected);
    }
    assert_ne!(ids[0], ids[1]);
    assert_eq!(place.standing().progress.sent, 2);
}

const FULL: &str =
    r#"{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"}}"#;
const NO_RIGHT: &str = "-ERR 'Permissions Violation for Publish to \"fleet.connections\"'";

/// What a server does but acknowledge, whether it got the message, and what is told.
const BAD: [(Does, bool, &str); 11] = [
    (
        Does::Says("HMSG _INBOX 1 16 16\r\nNATS/1.0 503\r\n\r\n"),
        true,
        "no stream takes `fleet.connections`, or it has no leader right now",
    ),
    (
        Does::Acks(FULL),
        true,
        "the stream of `fleet.connections` does not take it: maximum bytes exceeded",
    ),
    (
        Does::Acks("hello"),
        true,
        "whoever answers at `fleet.connections` is no stream of JetStream: hello",
    ),
    (
        Does::Says(NO_RIGHT),
        true,
        "'Permissions Violation for Publish",
    ),
    (Does::Says("MSG x"), true, "a message without its size"),
    (Does::Closes, true, "end of file"),
    (Does::Hangs, true, "did not answer within 0.3 s"),
    (
        Does::Refuses("-ERR 'Authorization Violation'"),
        false,
        "'Authorization Violation'",
    ),
    (
        Does::Greets("HTTP/1.1 400"),
        false,
        "no NATS server: it says HTTP/1.1 400",
    ),
    (
        Does::Greets(r#"INFO {"headers":true,"tls_required":true}"#),
        false,
        "it wants TLS: write `tls://` into `url`",
    ),
    (
        Does::Greets("INFO {}"),
        false,
        "it takes no headers: it is older than 2.2",
    ),
];

/// Whatever a server does but acknowledge, the rows wait. Those that may have arrived are sent
/// again as they were, by the same id, and then those that have come since.
#[test]
fn what_may_have_arrived_is_sent_again_as_it_was() {
    for (bad, is_published, told) in BAD {
        let (address, got) = serve(vec![bad, ACK, ACK], INFO);
        let mut place = Place::new();
        let mut sender = place.sender(&settings(&[address]));
        place.record(0..5);
        let fault = block_on(sender.send()).unwrap_err().to_string();
        assert!(fault.contains(told), "{bad:?}: {fault}");
        assert!(fault.starts_with(&format!("nats://{address}")), "{fault}");
        let first = is_published.then(|| got.recv().unwrap());
        place.record(5..7);
        // It does not matter who sends.
        let mut sender = place.sender(&settings(&[address]));
        assert_eq!(block_on(sender.round()), Duration::from_hours(1));
        let again = got.try_recv().unwrap();
        assert_eq!(again.ids(), [0, 1, 2, 3, 4]);
        if let Some(first) = first {
            assert_eq!(first.ids(), again.ids());
            assert_eq!(first.message_id(), again.message_id());
        }
        assert_eq!(got.try_recv().unwrap().ids(), [5, 6]);
        assert_eq!(place.standing().progress.sent, 7);
    }
}

#[test]
fn a_message_is_as_large_as_the_server_takes() {
    let (address, got) = serve(vec![ACK; 99], r#"INFO {"headers":true,"max_payload":900}"#);
    let mut place = Place::new();
    let mut sender = place.sender(&settings(&[address]));
    place.record(0..40);
    assert_eq!(block_on(sender.round()), Duration::from_hours(1));
    let got: Vec<_> = got.try_iter().map(|got| got.ids()).collect();
    assert!(got.len() > 1, "{got:?}");
    let all: Vec<u64> = (0..40).collect();
    assert_eq!(got.concat(), all);
    // What no message has room for is told, and not lost.
    let (address, got) = serve(vec![ACK; 99], r#"INFO {"headers":true,"max_payload":99}"#);
    let mut place = Place::new();
    let mut sender = place.sender(&settings(&[address]));
    place.record(0..2);
    assert!(block_on(sender.round()) < Duration::from_hours(1));
    let standing = place.standing();
    assert_eq!(
        (standing.is_failing, standing.progress.waiting()),
        (true, 2)
    );
    let fault = block_on(sender.send()).unwrap_err().to_string();
    assert!(
        fault.contains("it takes 99 bytes at most, and these are "),
        "{fault}"
    );
    assert_eq!(got.try_iter().count(), 0);
}

/// The first server that is there is asked, and where none is, the first one is told.
#[test]
fn where_a_server_is_away_another_one_is_asked() {
    let away = || {
        TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
    };
    let (address, got) = serve(vec![ACK], INFO);
    let mut place = Place::new();
    let mut sender = place.sender(&settings(&[away(), address]));
    place.record(0..2);
    block_on(sender.round());
    assert_eq!(got.try_recv().unwrap().ids(), [0, 1]);
    let (first, second) = (away(), away());
    let mut sender = place.sender(&settings(&[first, second]));
    place.record(2..3);
    let fault = block_on(sender.send()).unwrap_err().to_string();
    assert!(
        fault.starts_with(&format!("connect to nats://{first}: ")),
        "{fault}"
    );
}
