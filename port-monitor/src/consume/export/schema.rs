//! The tables of a receiver, as its own language has them.

/// The tables of `ClickHouse`, and with the name of a `cluster` the one of all its shards. They
/// name their database: 18.16 looks in its default one for what does not, once it is restarted.
pub fn clickhouse(cluster: Option<&str>) -> String {
    let mut text = include_str!("clickhouse.sql").to_owned();
    if let Some(cluster) = cluster {
        text += &include_str!("distributed.sql").replace("{cluster}", cluster);
    }
    let target = cluster.map_or("connections", |_| "connections_all");
    text + &include_str!("buffer.sql").replace("{target}", target)
}

/// The stream of NATS `JetStream`, as its tools take it, and in a `cluster` of that name on three
/// servers of it. It refuses what it has no room for: a message that it forgets is no row that waits.
pub fn nats(cluster: Option<&str>) -> String {
    let replicas = match cluster {
        Some(cluster) => {
            format!("\"num_replicas\": 3,\n  \"placement\": {{ \"cluster\": \"{cluster}\" }}")
        }
        None => "\"num_replicas\": 1".to_owned(),
    };
    include_str!("stream.json").replace("\"num_replicas\": 1", &replicas)
}

/// The name of a cluster. What it is made of has no meaning in a text of SQL.
pub fn parse_cluster(text: &str) -> Result<String, &'static str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if text.is_empty() || !text.chars().all(is_plain) {
        return Err("not the name of a cluster: write letters, digits, `_`, `-` and `.`");
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_has_a_table_of_its_shards_and_its_buffer_writes_there() {
        let alone = clickhouse(None);
        assert!(!alone.contains("Distributed("), "{alone}");
        assert!(alone.contains("Buffer('fleet', 'connections',"));
        let all = clickhouse(Some("fleet"));
        assert!(all.contains("Distributed('fleet', 'fleet', 'connections',"));
        assert!(all.contains("Buffer('fleet', 'connections_all',"));
        assert!(!all.contains('{'), "{all}");
    }

    #[test]
    fn a_stream_is_on_one_server_or_on_three() {
        let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        let alone = parse(&nats(None));
        assert_eq!(alone["num_replicas"], 1);
        assert!(alone["placement"].is_null());
        let three = parse(&nats(Some("eu-west.1")));
        assert_eq!(three["num_replicas"], 3);
        assert_eq!(three["placement"]["cluster"], "eu-west.1");
    }

    #[test]
    fn the_name_of_a_cluster_is_no_sql() {
        for name in ["fleet", "eu-west.1_a"] {
            assert_eq!(parse_cluster(name).as_deref(), Ok(name));
        }
        for name in ["", "a'b", "a b", "{x}"] {
            assert!(parse_cluster(name).is_err(), "{name}");
        }
    }
}
