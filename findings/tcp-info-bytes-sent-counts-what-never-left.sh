#!/bin/sh
# Linux 6.18, TCP_INFO as iproute2's ss shows it: bytes_sent grows each time the host's own
# queueing discipline refuses a segment, and bytes_retrans does not. Their difference, which
# is commonly taken for what a program sent, is many times what it wrote.
#
# Found while comparing the bytes of the two ends of one stream.
#
# Seen with iproute2 6.1.0 (Debian 12): after 5 bytes that arrive and 1,000 bytes that a
# full queue (pfifo, limit 0) refuses for some seconds, bytes_sent is several thousand,
# bytes_retrans is 0 and bytes_acked 6. As root; a network namespace of its own, loopback.
# Exits 0 while that is so, 1 when it changes.
set -eu
command -v ss >/dev/null && command -v tc >/dev/null || apt-get install --yes --quiet iproute2
uname -r
ss -V
unshare --net python3 - <<'PY'
import re
import socket
import subprocess
import time


def run(command):
    return subprocess.run(command.split(), capture_output=True, text=True, check=True).stdout


run("ip link set lo up")
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen()
client = socket.create_connection(listener.getsockname())
server, _ = listener.accept()
client.sendall(b"hello")
assert server.recv(16) == b"hello"
run("tc qdisc add dev lo root pfifo limit 0")
client.sendall(b"x" * 1000)
written, deadline = 1005, time.monotonic() + 60
while True:
    line = run(f"ss -tinOH sport = :{client.getsockname()[1]}")
    told = {name: int(value) for name, value in re.findall(r"(bytes_\w+):(\d+)", line)}
    left = told["bytes_sent"] - told.get("bytes_retrans", 0)
    if left > 3 * written or time.monotonic() > deadline:
        break
    time.sleep(0.2)
print("written:", written, " delivered: 5 ", told)
print("bytes_sent - bytes_retrans:", left)
assert left > 3 * written, "changed: what the queue refused is no longer counted as sent"
PY
