
-- Gathers the inserts of many hosts in memory, and writes them together: for thousands of hosts.
-- It answers before anything is on a disk: rows of up to ten seconds are lost when the server
-- crashes.
CREATE TABLE IF NOT EXISTS connections_buffer AS connections
ENGINE = Buffer(currentDatabase(), '{target}', 4, 1, 10, 1000, 100000, 1000000, 100000000);
