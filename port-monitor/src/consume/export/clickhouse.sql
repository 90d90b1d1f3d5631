-- The connections of a fleet, for ClickHouse: 18.16 and later.
-- Load it with: clickhouse-client --multiquery < FILE

CREATE DATABASE IF NOT EXISTS fleet;

-- One row for each connection. A row that is sent again replaces the one before: ask for FINAL
-- where each has to be there once before parts are merged.
CREATE TABLE IF NOT EXISTS fleet.connections
(
    time DateTime('UTC') COMMENT 'when it began',
    host String COMMENT 'host name at the time',
    process String COMMENT 'name of the process; empty: unknown, as in every text',
    pid Nullable(UInt32) COMMENT 'id of the process',
    exe String COMMENT 'its executable',
    user String COMMENT 'its user, by name or uid',
    unit String COMMENT 'its systemd unit',
    container String COMMENT 'id of its container',
    direction String COMMENT 'out: this host opened it; in: a peer did',
    local String COMMENT 'address of the end on this host',
    local_port Nullable(UInt16) COMMENT 'port of that end',
    remote String COMMENT 'address of the other end',
    remote_port Nullable(UInt16) COMMENT 'port of that end',
    port Nullable(UInt16) COMMENT 'port of the service: the remote one outbound, the local one inbound',
    service String COMMENT 'name that the port is registered for',
    state String COMMENT 'failed, closed, cut off or pushed out',
    verdict String COMMENT 'allowed, denied or violation; empty: no policy',
    rule String COMMENT 'rule of the policy that decided',
    duration Nullable(Float64) COMMENT 'seconds',
    bytes_sent Nullable(UInt64) COMMENT 'payload that this host sent',
    bytes_received Nullable(UInt64) COMMENT 'payload that it received',
    bytes Nullable(UInt64) COMMENT 'both',
    handshake_us Nullable(UInt32) COMMENT 'from the attempt to the established connection, microseconds',
    rtt_us Nullable(UInt32) COMMENT 'round-trip time, microseconds',
    retransmits Nullable(UInt32) COMMENT 'segments sent again',
    errno Nullable(Int32) COMMENT 'why it failed or broke, as the kernel numbers it',
    time_ns Int64 COMMENT 'when it began, in ns since 1970; tells the parts of a connection apart',
    boot_id String COMMENT 'boot of the host; cloned hosts have different ones',
    connection_id UInt64 COMMENT 'number of the connection within the boot',
    version UInt64 COMMENT 'the row with the highest one stays'
)
ENGINE = ReplacingMergeTree(version)
-- By month: one insert may not have rows for more than 100 partitions, and old connections end too.
PARTITION BY toYYYYMM(time)
ORDER BY (host, time, boot_id, connection_id, time_ns);
