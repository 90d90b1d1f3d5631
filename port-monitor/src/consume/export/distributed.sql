
-- The same table on all shards. All rows of a host are on one shard, so that a row sent again
-- meets the one before. Insert with insert_distributed_sync=1, or rows wait on the disk of the
-- server that was asked.
CREATE TABLE IF NOT EXISTS fleet.connections_all AS fleet.connections
ENGINE = Distributed('{cluster}', 'fleet', 'connections', sipHash64(host));
