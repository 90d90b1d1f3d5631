#!/bin/sh
# listeners 0.6.1 (crates.io): get_process_by_port, "the process listening on a given port",
# also answers with a process that only has an outgoing connection from that port.
#
# Found while checking who is told to serve a port that nobody listens on: a client's
# ephemeral port is given out as a service.
#
# Seen on Linux 6.18: for the local port of a connected client socket, where no socket
# listens (a connect to it is refused), the call returns the client's process.
# Exits 0 while that is so, 1 when it changes.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/src"
cat > "$dir/Cargo.toml" <<'TOML'
[package]
name = "byport"
version = "0.0.0"
edition = "2021"

[dependencies]
listeners = "=0.6.1"
TOML
cat > "$dir/src/main.rs" <<'RUST'
fn main() {
    let port: u16 = std::env::args().nth(1).unwrap().parse().unwrap();
    match listeners::get_process_by_port(port, listeners::Protocol::TCP) {
        Ok(process) => println!("{}", process.pid),
        Err(_) => println!("nobody"),
    }
}
RUST
CARGO_TARGET_DIR="$dir/target" cargo build --quiet --manifest-path "$dir/Cargo.toml"
python3 - "$dir/target/debug/byport" <<'PY'
import os
import socket
import subprocess
import sys

listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen()
client = socket.create_connection(listener.getsockname())
served, _ = listener.accept()
address = client.getsockname()
refused = socket.socket().connect_ex(address) != 0
told = subprocess.run([sys.argv[1], str(address[1])], capture_output=True, text=True, check=True)
print("listeners 0.6.1: a connect to the client's port is", "refused" if refused else "taken")
print("get_process_by_port:", told.stdout.strip(), "(the client is", str(os.getpid()) + ")")
assert refused
assert told.stdout.strip() == str(os.getpid()), "changed: a client is not told as listening"
PY
