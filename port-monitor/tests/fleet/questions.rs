//! The questions of `docs/fleet.md`, about connections that are known.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    cluster::{self, statements},
    pages::Page,
    today,
};

const DAY: i64 = 86_400;
/// The day that a question of the page is about. It is asked about [`Fleet::then`].
const THAT_DAY: &str = "2026-11-28";

/// The connections, and what is asked about them.
struct Fleet {
    now: i64,
    rows: Vec<Value>,
}

impl Fleet {
    /// So many connections of a host, which began so long ago, with these facts besides.
    fn had(&mut self, count: u64, host: &str, ago: i64, facts: &Value) {
        for _ in 0..count {
            let number = self.rows.len() as u64;
            let time = self.now - ago;
            let mut row = json!({
                "time": time, "host": host, "user": "www", "direction": "out", "local": "10.0.0.3",
                "local_port": 50_000, "remote_port": 443, "port": 443, "state": "closed",
                "bytes_sent": 100, "bytes_received": 1_000, "bytes": 1_100, "handshake_us": 2_000,
                "retransmits": 1, "time_ns": time * 1_000_000_000 + i64::try_from(number).unwrap(),
                "boot_id": host, "connection_id": number, "version": number,
            });
            let row_facts = row.as_object_mut().unwrap();
            row_facts.extend(facts.as_object().unwrap().clone());
            self.rows.push(row);
        }
    }

    /// When that was, as the answers have it.
    fn at(&self, ago: i64) -> String {
        let time = Timestamp::from_second(self.now - ago).unwrap();
        time.strftime("%Y-%m-%d %H:%M:%S").to_string()
    }

    /// Seven minutes past ten, ten days ago.
    const fn then(&self) -> i64 {
        self.now - self.now % DAY - 10 * DAY + 10 * 3_600 + 7 * 60
    }

    fn new() -> Self {
        let now = Timestamp::now().as_second();
        let rows = Vec::new();
        let mut fleet = Self { now, rows };
        let curl = json!({"process": "curl", "remote": "10.0.0.9"});
        fleet.had(2, "web-1", 100, &curl);
        fleet.had(1, "web-2", 3 * DAY, &curl);
        let app = json!({
            "process": "app", "exe": "/srv/app", "remote": "10.0.0.5", "remote_port": 5_432,
            "port": 5_432, "state": "failed", "errno": 111, "bytes_sent": null,
            "bytes_received": null, "bytes": null, "handshake_us": null, "retransmits": 0,
        });
        fleet.had(1, "web-2", 2 * DAY, &app);
        fleet.had(3, "web-2", 200, &app);
        let ssh = |remote| {
            json!({
                "process": "sshd", "direction": "in", "remote": remote, "remote_port": 50_000,
                "local_port": 22, "port": 22, "bytes_sent": 5_000,
            })
        };
        fleet.had(2, "web-2", 300, &ssh("203.0.113.7"));
        fleet.had(1, "web-2", 300, &ssh("2001:db8::7"));
        for private in ["10.0.0.7", "172.31.0.7", "fe80::7", "::1"] {
            fleet.had(1, "web-2", 300, &ssh(private));
        }
        let then = now - fleet.then();
        fleet.had(1, "web-1", then, &ssh("10.0.0.7"));
        fleet.had(1, "web-1", then - 900, &ssh("10.0.0.7"));
        fleet.had(1, "db-1", 2 * DAY, &ssh("10.0.0.7"));
        let telnet = |verdict| {
            json!({
                "process": "nc", "remote": "10.0.0.8", "port": 23, "remote_port": 23,
                "rule": "no-telnet", "verdict": verdict, "bytes_sent": 1, "handshake_us": 1_000,
            })
        };
        fleet.had(2, "web-1", 400, &telnet("denied"));
        fleet.had(1, "web-2", 500, &telnet("violation"));
        fleet
    }

    /// What the questions of the page are to be answered, in its order.
    fn answers(&self) -> [String; 10] {
        let then = self.at(self.now - self.then());
        let [curl, old_curl] = [100, 3 * DAY].map(|ago| self.at(ago));
        let [denied, violation] = [400, 500].map(|ago| self.at(ago));
        [
            format!(
                "web-1\tcurl\twww\t443\t2\t{curl}\t{curl}\n\
                 web-2\tcurl\twww\t443\t1\t{old_curl}\t{old_curl}"
            ),
            "app\t/srv/app\t1\t4\t\\N".to_owned(),
            "10.0.0.5\t5432\t111\t1\t3".to_owned(),
            format!("no-telnet\tdenied\t1\t2\t{denied}\nno-telnet\tviolation\t1\t1\t{violation}"),
            "203.0.113.7\t10000\t2000\t1\n10.0.0.7\t5000\t1000\t1\n172.31.0.7\t5000\t1000\t1\n\
             2001:db8::7\t5000\t1000\t1\n::1\t5000\t1000\t1\nfe80::7\t5000\t1000\t1\n\
             10.0.0.9\t200\t2000\t1\n10.0.0.8\t3\t3000\t2\n10.0.0.5\t\\N\t\\N\t1"
                .to_owned(),
            format!(
                "web-2\tnc\t10.0.0.8\t23\t{violation}\nweb-1\tnc\t10.0.0.8\t23\t{denied}\n\
                 web-1\tcurl\t10.0.0.9\t443\t{curl}"
            ),
            format!("{then}\tsshd\tin\t10.0.0.7\t22\tclosed"),
            "web-2\tsshd\t22\t2\t3".to_owned(),
            format!("db-1\t{}", self.at(2 * DAY)),
            "10.0.0.9\t443\t2\t2\t2\n10.0.0.8\t23\t1\t3\t3".to_owned(),
        ]
    }
}

/// The questions of the page, about that day.
fn questions(day: &str) -> Vec<String> {
    let blocks = Page::read("docs/fleet.md").blocks();
    let block = blocks.iter().find(|block| block.kind == "sql fleet");
    let text = block.unwrap().text.replace(THAT_DAY, day);
    assert!(text.contains(day));
    statements(&text).map(str::to_owned).collect()
}

#[test]
fn questions_of_the_page_are_answered_by_a_cluster_and_by_the_engine_of_today() {
    let fleet = Fleet::new();
    let rows: Vec<String> = fleet.rows.iter().map(ToString::to_string).collect();
    let dir = tempfile::tempdir().unwrap();
    let shards = cluster::start(dir.path());
    let insert = format!(
        "INSERT INTO fleet.connections_all FORMAT JSONEachRow\n{}\n",
        rows.join("\n")
    );
    // A repeat makes no difference.
    for asked in &shards[..2] {
        let (status, _, body) = asked.send("/?insert_distributed_sync=1", &insert).unwrap();
        assert_eq!(status, 200, "{body}");
    }
    let then = fleet.at(fleet.now - fleet.then());
    let questions = questions(then.split(' ').next().unwrap());
    let expected = fleet.answers();
    assert_eq!(questions.len(), expected.len());
    for (question, expected) in questions.iter().zip(&expected) {
        assert_eq!(shards[2].ask(question), *expected, "{question}");
    }
    let on_one_server = |question: &String| question.replace("connections_all", "connections");
    let questions: Vec<String> = questions.iter().map(on_one_server).collect();
    let twice = [&*rows, &*rows].concat();
    let answers = today::answers(&twice, &questions);
    for ((question, answer), expected) in questions.iter().zip(&answers).zip(&expected) {
        assert_eq!(answer, expected, "{question}");
    }
}
