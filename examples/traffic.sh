#!/bin/sh
# A little loopback traffic to watch: a web server, a client that waits for it,
# and a connection to the telnet port, which examples/policy.toml forbids. Needs
# curl and Python 3, and root for port 80:
#   sudo port-monitor --policy examples/policy.toml -- sh examples/traffic.sh
python3 -m http.server --bind ::1 80 >/dev/null 2>&1 &
server=$!
trap 'kill $server' EXIT
curl --silent --output /dev/null --retry 10 --retry-delay 1 --retry-connrefused '[::1]:80'
curl --silent --output /dev/null 127.0.0.1:23
exit 0
