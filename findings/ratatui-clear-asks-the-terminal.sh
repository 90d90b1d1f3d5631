#!/bin/sh
# ratatui 0.30.2 with its crossterm backend: Terminal::clear on a full-screen viewport asks the
# terminal where its cursor is (ESC [ 6 n), and is an error after two seconds where nobody
# answers: through a serial console, a recorder or a test's pseudo-terminal. Terminal::new, draw
# and resize ask nothing. resize to the present size empties the screen just as well.
#
# Found while running a full-screen view on a pseudo-terminal that answers nothing.
#
# Seen: `draw: Ok`, `resize: Ok`, and then `clear: Err` with "The cursor position could not be
# read within a normal duration"; all three are Ok where the question is answered.
# Exits 0 while that is so, 1 when it changes. Needs cargo, a C compiler and python3.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/src"
cat > "$dir/Cargo.toml" <<'TOML'
[package]
name = "ask"
version = "0.0.0"
edition = "2024"

[dependencies]
ratatui = { version = "=0.30.2", default-features = false, features = ["crossterm"] }
TOML
cat > "$dir/src/main.rs" <<'RUST'
use ratatui::{
    Terminal,
    backend::CrosstermBackend,
    crossterm::terminal::{disable_raw_mode, enable_raw_mode},
    layout::Rect,
};

fn main() {
    enable_raw_mode().unwrap();
    let mut terminal = Terminal::new(CrosstermBackend::new(std::io::stdout())).unwrap();
    let draw = terminal.draw(|_| {}).map(drop);
    let size = terminal.size().unwrap();
    let resize = terminal.resize(Rect::new(0, 0, size.width, size.height));
    let clear = terminal.clear();
    disable_raw_mode().unwrap();
    eprintln!("draw: {draw:?}");
    eprintln!("resize: {resize:?}");
    eprintln!("clear: {clear:?}");
}
RUST
cargo build --quiet --manifest-path "$dir/Cargo.toml"
cargo tree --quiet --manifest-path "$dir/Cargo.toml" --depth 1
python3 - "$dir/target/debug/ask" <<'PY'
import os
import pty
import select
import subprocess
import sys


def run(answers):
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.argv[1]], stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, text=True
    )
    os.close(theirs)
    asked = b""
    while child.poll() is None:
        if select.select([ours], [], [], 0.1)[0]:
            try:
                asked += os.read(ours, 4096)
            except OSError:
                break
            if answers and asked.endswith(b"\x1b[6n"):
                os.write(ours, b"\x1b[1;1R")
    said = child.communicate()[1]
    print("answered" if answers else "not answered")
    print(said, end="")
    assert b"\x1b[6n" in asked, "changed: nothing is asked"
    return [line.split(": ", 1)[1] for line in said.splitlines()]


assert run(True) == ["Ok(())"] * 3, "changed"
draw, resize, clear = run(False)
assert (draw, resize) == ("Ok(())", "Ok(())"), "changed"
assert clear.startswith("Err("), "changed: clear does without an answer"
PY
