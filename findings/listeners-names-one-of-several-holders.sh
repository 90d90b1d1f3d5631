#!/bin/sh
# listeners 0.6.1 (crates.io): of several processes that hold one listening socket, get_all
# names one and get_process_by_port another. Neither says that there are more.
#
# Found while looking for what names the owner of a listener that a parent and the children
# it forked share (prefork servers): each of them can take the next connection.
#
# Seen on Linux 6.18 with four holders: get_all has one entry for the listener, with the
# highest pid; get_process_by_port answers with the lowest. `ss -tlnp` names all four.
# Exits 0 while that is so, 1 when it changes.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/src"
cat > "$dir/Cargo.toml" <<'TOML'
[package]
name = "holders"
version = "0.0.0"
edition = "2021"

[dependencies]
listeners = "=0.6.1"
TOML
cat > "$dir/src/main.rs" <<'RUST'
fn main() {
    let port: u16 = std::env::args().nth(1).unwrap().parse().unwrap();
    for listener in listeners::get_all().unwrap() {
        if listener.socket.port() == port && listener.state == listeners::SocketState::Listen {
            println!("all {}", listener.process.pid);
        }
    }
    let one = listeners::get_process_by_port(port, listeners::Protocol::TCP).unwrap();
    println!("port {}", one.pid);
}
RUST
CARGO_TARGET_DIR="$dir/target" cargo build --quiet --manifest-path "$dir/Cargo.toml"
python3 - "$dir/target/debug/holders" <<'PY'
import os
import signal
import socket
import subprocess
import sys

listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen()
children = []
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        signal.pause()
    children.append(pid)
try:
    port = str(listener.getsockname()[1])
    answer = subprocess.run([sys.argv[1], port], capture_output=True, text=True, check=True)
finally:
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

holders = {os.getpid(), *children}
told = [line.split() for line in answer.stdout.splitlines()]
of_all = [int(pid) for what, pid in told if what == "all"]
of_port = [int(pid) for what, pid in told if what == "port"]
print("listeners 0.6.1: held by", sorted(holders))
print("get_all:            ", of_all)
print("get_process_by_port:", of_port)
assert len(of_all) == 1 and of_all[0] in holders, "changed: get_all names more than one holder"
assert of_port[0] in holders and of_port != of_all, "changed: both name the same holder"
PY
