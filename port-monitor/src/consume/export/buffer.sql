
-- Gathers the inserts of many hosts in memory, and writes them together: for thousands of hosts.
-- It answers before anything is on a disk: rows of up to ten seconds are lost when the server
-- crashes.
CREATE TABLE IF NOT EXISTS fleet.connections_buffer AS fleet.connections
ENGINE = Buffer('fleet', '{target}', 4, 1, 10, 1000, 100000, 1000000, 100000000);
