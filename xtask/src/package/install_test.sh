#!/bin/bash
# Runs on a real systemd: installs the package, uses, upgrades, removes and purges it.
cd "$(dirname "$0")" || exit
. ./cases.sh
policy=/etc/port-monitor/policy.toml
configuration=/etc/port-monitor/port-monitor.toml
watch=port-monitor
apply=port-monitor-apply

# How a connection to a port of this host ends.
connect() {
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>&1 | sed -n '1s/.*connect: //p'
}
is_denied() { same "$(connect 23)" "Operation not permitted"; }
is_allowed() { same "$(connect 23)" "Connection refused"; }

# without UNIT LINE...: what the unit has is changed by a drop-in, until the next one.
without() {
    local unit=$1 dir=/run/systemd/system/$1.service.d
    shift
    rm -rf "$dir"
    mkdir -p "$dir"
    printf '%s\n' '[Service]' "$@" >"$dir/test.conf"
    systemctl daemon-reload
}
as_it_is() { without "$1"; }
# Of an ambient set that is empty, `~` would make one of all the others.
drop() {
    local lines=("CapabilityBoundingSet=~$2")
    [ -z "$(state "$1" AmbientCapabilities)" ] || lines+=("AmbientCapabilities=~$2")
    without "$1" "${lines[@]}"
}
# What a unit that runs, or has failed, has said since it was started last.
said_by() { journalctl "_SYSTEMD_INVOCATION_ID=$(state "$1" InvocationID)" --output cat --no-pager; }
says() { has "$2" said_by "$1" || not said_by "$1"; }
fails_to_start() { systemctl reset-failed "$1"; not systemctl start "$1"; }

before=$(files)
users_before=$(users)
is installs dpkg --install old.deb
is starts-nothing same "$(systemctl is-active $watch $apply | tr '\n' ' ')" "inactive inactive "
is enables-nothing same "$(systemctl is-enabled $watch $apply | tr '\n' ' ')" "disabled disabled "

cat >$policy <<'POLICY'
version = 1
mode = "enforce"

[default]
inbound = { action = "allow" }
outbound = { action = "allow" }

[apply]
established = "kill"

[[rule]]
name = "no-telnet-out"
direction = "out"
service = "telnet"
action = "deny"
POLICY

# The service, as it is. A connection is there before it.
nc -l 127.0.0.1 2323 </dev/zero >/dev/null 2>&1 &
soon has :2323 ss --no-header --tcp --listening --numeric
nc 127.0.0.1 2323 </dev/zero >/dev/null 2>&1 &
is starts systemctl start $watch
is tells-its-state has "watching by" state $watch StatusText
metrics() { curl --silent --max-time 10 127.0.0.1:9758/metrics; }
is serves-metrics has port_monitor_build_info metrics
history() { port-monitor history -o csv; }
is keeps-history-with-executables soon has /usr/bin/curl history
of_before() { history | grep ,2323,; }
is names-who-was-there-before soon has nc.openbsd of_before
as_group() { setpriv --reuid=nobody --regid="$1" --clear-groups "${@:2}"; }
is keeps-history-to-itself not as_group nogroup port-monitor history
is lets-its-group-read-history has /usr/bin/curl as_group port-monitor port-monitor history -o csv
is tells-nobody-else-how-it-stands not as_group nogroup port-monitor status --service
is tells-its-group-how-it-stands has "history " as_group port-monitor port-monitor status --service
# beside_connections COMMAND...: it has something to see.
beside_connections() {
    (while :; do metrics >/dev/null; sleep 0.2; done) &
    local load=$! code
    "$@"
    code=$?
    kill $load
    return $code
}
see_one() { as_group "$1" timeout 30 port-monitor --from-service --count 1; }
is lets-its-group-watch beside_connections see_one port-monitor
is lets-nobody-else-watch not see_one nogroup
is reloads systemctl reload $watch
is reloaded soon says $watch "reloaded $configuration"
# What is commented out in the configuration: the policy is watched, and told of in the journal.
sed --in-place --regexp-extended 's/^# (\[(policy|alert)\]|file = .*policy.toml"|journal = true)$/\1/' $configuration
is starts-with-a-policy systemctl restart $watch
alerts() { journalctl --output cat --no-pager PORT_MONITOR_RULE=no-telnet-out PORT_MONITOR_ALERT="$1"; }
connect 23 >/dev/null
is tells-of-a-violation soon has telnet alerts violation
explained() { journalctl --catalog --no-pager PORT_MONITOR_ALERT=violation; }
is explains-it has "Subject: A connection breaks the policy" explained
is stops systemctl stop $watch
is accounts in_journal $watch "dropped 0"

# What it needs, one by one.
for capability in $(state $watch CapabilityBoundingSet); do
    drop $watch "$capability"
    case $capability in
    cap_bpf | cap_perfmon)
        is "needs-$capability" fails_to_start $watch
        is "tells-of-$capability" says $watch "needs ${capability^^}"
        ;;
    cap_sys_ptrace)
        rm /var/lib/port-monitor/history.db*
        systemctl start $watch
        is "records-without-$capability" soon has 2323 of_before
        is "needs-$capability" not has nc.openbsd of_before
        systemctl stop $watch
        ;;
    *) is "knows-why-it-has-$capability" false ;;
    esac
done
as_it_is $watch
kill $(jobs -p)
wait

# The policy, in force. A connection in another network namespace is there before it.
ip netns add other
ip -n other link set lo up
elsewhere() { ss --net other --no-header --tcp state established dport = :23; }
nothing_elsewhere() { same "$(elsewhere)" ""; }
telnet_elsewhere() {
    ip netns exec other nc -l 127.0.0.1 23 </dev/zero >/dev/null 2>&1 &
    soon has :23 ss --net other --no-header --tcp --listening --numeric
    ip netns exec other nc 127.0.0.1 23 </dev/zero >/dev/null 2>&1 &
    soon has :23 elsewhere
}
is allows-before is_allowed
telnet_elsewhere
is enforces systemctl start $apply
is denies-once-it-has-begun is_denied
is ends-connections-elsewhere soon nothing_elsewhere
systemctl stop $apply
is stays-in-force-without-it is_denied
is ends port-monitor panic-open

for capability in $(state $apply CapabilityBoundingSet); do
    drop $apply "$capability"
    telnet_elsewhere
    is "needs-$capability" fails_to_start $apply
    case $capability in
    cap_net_admin) is "tells-of-$capability" says $apply "end open connections" ;;
    cap_sys_ptrace) is "tells-of-$capability" says $apply "Read-only file system" ;;
    cap_sys_admin) is "tells-of-$capability" says $apply "needs CAP_BPF" ;;
    *) is "knows-why-it-has-$capability" false ;;
    esac
    # In force it may be all the same.
    port-monitor panic-open >/dev/null 2>&1
    kill $(jobs -p)
    wait
done
as_it_is $apply

# The service that enforces it too, by the drop-in among the examples.
enforcing() {
    mkdir -p /run/systemd/system/$watch.service.d
    cp /usr/share/doc/port-monitor/examples/enforce.conf /run/systemd/system/$watch.service.d/
    systemctl daemon-reload
}
sed --in-place 's/^# observe = false/observe = false/' $configuration
enforcing
telnet_elsewhere
is enforces-as-a-service systemctl start $watch
is denies-once-the-service-has-begun is_denied
is ends-connections-elsewhere-as-a-service soon nothing_elsewhere
is tells-of-a-denial-by-the-service soon has telnet alerts denied
is tells-its-group-how-it-enforces has "enforces " as_group port-monitor port-monitor status --service
is reloads-as-it-enforces systemctl reload $watch
is reloaded-as-it-enforces soon says $watch "reloaded $configuration"
systemctl stop $watch
is stays-in-force-without-the-service is_denied
is ends-what-the-service-applied port-monitor panic-open
for capability in $(state $watch CapabilityBoundingSet); do
    drop $watch "$capability"
    enforcing
    telnet_elsewhere
    is "needs-$capability-to-enforce" fails_to_start $watch
    case $capability in
    cap_net_admin) is "tells-of-$capability-to-enforce" says $watch "end open connections" ;;
    # Its group is not root's: of process 1 it sees nothing at all.
    cap_sys_ptrace) is "tells-of-$capability-to-enforce" says $watch "out of reach from this mount namespace" ;;
    cap_sys_admin) is "tells-of-$capability-to-enforce" says $watch "needs CAP_BPF" ;;
    *) is "knows-why-it-has-$capability-to-enforce" false ;;
    esac
    # In force it may be all the same.
    port-monitor panic-open >/dev/null 2>&1
    kill $(jobs -p)
    wait
done
as_it_is $watch
sed --in-place 's/^observe = false/# observe = false/' $configuration

# An upgrade, with the policy in force and a changed configuration.
echo '# changed' >>$configuration
systemctl enable --quiet --now $watch $apply
is serves-metrics-still has port_monitor_build_info metrics
pids="$(state $watch MainPID) $(state $apply MainPID)"
touch upgrading
(while [ -e upgrading ]; do connect 23; done | sort -u >denials) &
is upgrades dpkg --install new.deb
upgraded=$(date +%Y-%m-%dT%H:%M:%S)
rm upgrading
wait
is denies-all-the-while same "$(cat denials)" "Operation not permitted"
is keeps-changes has "# changed" cat $configuration
is runs-on same "$(systemctl is-active $watch $apply | tr '\n' ' ')" "active active "
is runs-as-the-new-one not same "$(state $watch MainPID) $(state $apply MainPID)" "$pids"
is tells-of-a-denial soon has telnet alerts denied
is keeps-history-across-it has /usr/bin/curl port-monitor history -o csv --until "$upgraded"
metrics >/dev/null
is records-after-it soon has /usr/bin/curl port-monitor history -o csv --since "$upgraded"

# The end.
is removes dpkg --remove port-monitor
is ends-the-policy is_allowed
is leaves-nothing-pinned same "$(ls /sys/fs/bpf)" ""
is leaves-the-history test -s /var/lib/port-monitor/history.db
is leaves-no-link same "$(find /etc/systemd/system -name 'port-monitor*')" ""
is purges dpkg --purge port-monitor
is leaves-no-file same "$(diff <(echo "$before") <(files))" ""
is leaves-no-user same "$(diff <(echo "$users_before") <(users))" ""
