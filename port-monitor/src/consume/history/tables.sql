-- Version 1. `PRAGMA user_version` counts the versions.

-- What was watched: one row for each run of the monitor.
CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    host TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    kernel TEXT NOT NULL,
    version TEXT NOT NULL,
    backend TEXT NOT NULL,
    policy TEXT,
    began_ns INTEGER NOT NULL,
    -- It has watched at least until then.
    seen_ns INTEGER NOT NULL,
    -- NULL: it still runs, or was cut off.
    ended_ns INTEGER,
    -- 0 runs, 1 has ended, 2 was cut off.
    state INTEGER NOT NULL
);

-- From when to when nobody watched.
CREATE TABLE gap_rows (
    id INTEGER PRIMARY KEY,
    began_ns INTEGER NOT NULL,
    ended_ns INTEGER NOT NULL,
    cause TEXT NOT NULL
);

-- Events that are missing.
CREATE TABLE loss_rows (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL,
    time_ns INTEGER NOT NULL,
    cause TEXT NOT NULL,
    lost INTEGER NOT NULL
);

-- Names, once for an epoch. What is not UTF-8 is a BLOB.
CREATE TABLE texts (
    id INTEGER PRIMARY KEY,
    text NOT NULL
);

-- Whose connections are, once for an epoch: texts by their ids.
CREATE TABLE owners (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL,
    netns INTEGER NOT NULL,
    -- NULL: nobody knows whose.
    pid INTEGER,
    -- 1 connect, 2 accept, 3 listener, 4 holder.
    source INTEGER,
    -- Since the boot of the run.
    start_ns INTEGER,
    uid INTEGER,
    gid INTEGER,
    cgroup_id INTEGER,
    process INTEGER,
    exe INTEGER,
    user INTEGER,
    cgroup INTEGER,
    unit INTEGER,
    container INTEGER,
    runtime INTEGER,
    pod INTEGER,
    -- Why there is no executable.
    missing INTEGER
);

-- From here on texts and owners of their own are used, so that old ones can be forgotten.
CREATE TABLE epochs (
    id INTEGER PRIMARY KEY,
    began_ns INTEGER NOT NULL,
    first_text INTEGER NOT NULL,
    first_owner INTEGER NOT NULL
);

CREATE TABLE connection_rows (
    -- When it began, ns since the Unix epoch; one more where there is another one.
    id INTEGER PRIMARY KEY,
    number INTEGER NOT NULL,
    owner INTEGER NOT NULL,
    -- 0 unseen, 1 attempt, 2 inbound, 3 restored, 4 preexisting.
    beginning INTEGER NOT NULL,
    -- 0 attempted, 1 open, 2 failed, 3 closed, 4 cut off, 5 pushed out.
    state INTEGER NOT NULL,
    -- 0 outbound, 1 inbound; and 2 for an IPv6 socket that speaks IPv4.
    flags INTEGER NOT NULL,
    local_ip BLOB NOT NULL,
    local_port INTEGER,
    remote_ip BLOB NOT NULL,
    remote_port INTEGER NOT NULL,
    ifindex INTEGER,
    service INTEGER,
    handshake_us INTEGER,
    duration_ns INTEGER,
    sent INTEGER,
    received INTEGER,
    retransmits INTEGER,
    rtt_us INTEGER,
    closed_by INTEGER,
    closing_pid INTEGER,
    errno INTEGER,
    -- NULL no policy, 0 allowed, 1 denied, 2 denied by a policy that only observes.
    verdict INTEGER,
    rule INTEGER
);

CREATE INDEX open_connections ON connection_rows (state) WHERE state < 2;
CREATE INDEX violating_connections ON connection_rows (verdict) WHERE verdict > 0;

CREATE TABLE listener_rows (
    -- When it began to listen, or was found; as above.
    id INTEGER PRIMARY KEY,
    number INTEGER NOT NULL,
    owner INTEGER NOT NULL,
    beginning INTEGER NOT NULL,
    state INTEGER NOT NULL,
    flags INTEGER NOT NULL,
    local_ip BLOB NOT NULL,
    local_port INTEGER,
    ifindex INTEGER,
    service INTEGER,
    ended_ns INTEGER,
    verdict INTEGER,
    rule INTEGER
);

CREATE INDEX open_listeners ON listener_rows (state) WHERE state < 2;
