#!/bin/sh
# ClickHouse 18.16.1 (Debian 12): a Distributed table answers an insert well as soon as its
# batches are on its own disk, and sends them to the shard one by one. When the shard is killed
# while one is being sent, that one is moved to a folder `broken` and never sent again, though
# the shard comes back a moment later. All others arrive.
#
# Found while shards of a cluster were killed beside inserts: rows were missing that had been
# acknowledged, and no reader of the table can know. With insert_distributed_sync=1 the insert
# fails instead, and whoever sent it can send it again.
#
# Seen: of 20,000,000 rows inserted 18,951,424 are on the shard, and one batch of 1,048,576 is
# in `broken`.
# Two servers listen on loopback, at ports 19000, 19001, 18123, 18124, 19009 and 19010. Exits 0
# while that is so, 1 when it changes.
set -eu
dir=$(mktemp -d)
front=
shard=
end() {
    for pid in $front $shard; do kill -KILL "$pid" 2>/dev/null && wait "$pid" || true; done
    rm -rf "$dir"
}
trap end EXIT
cd "$dir"
version=18.16.1+ds-7.3+b2
mkdir -p archives/partial
apt-get -qq -y --download-only --no-install-recommends -o APT::Sandbox::User=root \
    -o Dir::Cache::archives="$dir/archives" install \
    "clickhouse-server=$version" "clickhouse-client=$version" tzdata >/dev/null
for package in archives/*.deb; do dpkg-deb -x "$package" root; done
# What of these is installed already has not been fetched.
zones="$dir/root/usr/share/zoneinfo"
[ ! -d "$zones" ] || export TZDIR="$zones"
libraries=x86_64-linux-gnu
export LD_LIBRARY_PATH="$dir/root/usr/lib/$libraries:$dir/root/lib/$libraries"
configure() { # NAME TCP HTTP INTERSERVER
    mkdir -p "$1/data" "$1/tmp"
    cat >"$1/config.xml" <<XML
<yandex>
    <logger><level>error</level><console>1</console></logger>
    <listen_host>127.0.0.1</listen_host>
    <tcp_port>$2</tcp_port><http_port>$3</http_port>
    <interserver_http_port>$4</interserver_http_port>
    <path>$dir/$1/data/</path><tmp_path>$dir/$1/tmp/</tmp_path>
    <users_config>$dir/users.xml</users_config>
    <default_profile>default</default_profile><default_database>default</default_database>
    <timezone>UTC</timezone>
    <mark_cache_size>5368709120</mark_cache_size>
    <remote_servers><one><shard><replica>
        <host>127.0.0.1</host><port>19001</port>
    </replica></shard></one></remote_servers>
</yandex>
XML
}
cat >users.xml <<'XML'
<yandex>
    <profiles><default/></profiles>
    <users><default>
        <password></password><networks><ip>127.0.0.1</ip></networks>
        <profile>default</profile><quota>default</quota>
    </default></users>
    <quotas><default/></quotas>
</yandex>
XML
ask() { # PORT QUERY
    root/usr/bin/clickhouse-client --host 127.0.0.1 --port "$1" --query "$2" 2>&1
}
start() { # NAME PORT; sets started
    root/usr/sbin/clickhouse-server --config-file="$dir/$1/config.xml" >"$1.log" 2>&1 &
    started=$!
    until [ "$(ask "$2" 'SELECT 1')" = 1 ]; do
        kill -0 "$started" 2>/dev/null || { cat "$1.log"; exit 2; }
        sleep 0.2
    done
}
# Of an insert; some batches.
ROWS=20000000
waiting() { # FOLDER: batches in it
    find front/data -path "*$1/*.bin" | wc -l
}
configure front 19000 18123 19009
configure shard 19001 18124 19010
start front 19000
front=$started
start shard 19001
shard=$started
ask 19000 'SELECT version()'
ask 19001 'CREATE TABLE here (n UInt64) ENGINE = MergeTree ORDER BY n'
ask 19000 'CREATE TABLE there (n UInt64) ENGINE = Distributed(one, default, here)'
inserted=0
tries=0
# A shard that is killed between two batches has both wait.
until [ "$(waiting /broken)" != 0 ] || [ $tries = 10 ]; do
    tries=$((tries + 1))
    before=$(ask 19001 'SELECT count() FROM here')
    ask 19000 "INSERT INTO there SELECT number FROM numbers($ROWS)"
    inserted=$((inserted + ROWS))
    # It is being sent.
    until [ "$(ask 19001 'SELECT count() FROM here')" != "$before" ]; do :; done
    kill -KILL "$shard"
    wait "$shard" || true
    start shard 19001
    shard=$started
    until [ "$(waiting there)" = "$(waiting /broken)" ]; do sleep 0.2; done
done
arrived=$(ask 19001 'SELECT count() FROM here')
echo "$inserted rows inserted; $arrived on the shard; $(waiting /broken) batches in broken"
[ "$arrived" -lt "$inserted" ] || { echo "changed"; exit 1; }
