#!/usr/bin/env python3
"""Makes docs/picture.png: what a run of port-monitor looks like in a terminal.

It runs examples/traffic.sh under the program on a pseudo terminal, in a network
namespace of its own where there is nothing but loopback, and draws the bytes that
the program wrote. Needs root, curl, the Debian package fonts-dejavu-core and Pillow
(python3-pil, or `pip install pillow`):

    cargo build --release && sudo docs/picture.py target/release/port-monitor
"""

import fcntl
import os
import pty
import re
import struct
import sys
import termios

from PIL import Image, ImageDraw, ImageFont

HERE = os.path.dirname(os.path.abspath(__file__))
FONT = "/usr/share/fonts/truetype/dejavu/DejaVuSansMono.ttf"
COLUMNS = 106
COMMAND = "port-monitor --policy examples/policy.toml -- sh examples/traffic.sh"
PAPER, PLAIN, DIM, BRIGHT = "#14171c", "#d7dae0", "#858c99", "#ffffff"
COLOURS = {31: "#ff6b6b", 32: "#7bd88f", 33: "#f5c66b", 34: "#7aa2f7", 36: "#6fd3d8"}


def run(program):
    """Returns what the program writes on a terminal of so many columns."""
    inside = ["sh", "-c", 'ip link set lo up && exec "$0" "$@"', program]
    child, terminal = pty.fork()
    if child == 0:
        size = struct.pack("HHHH", 40, COLUMNS, 0, 0)
        fcntl.ioctl(0, termios.TIOCSWINSZ, size)
        os.chdir(os.path.dirname(HERE))
        os.environ["TERM"] = "xterm-256color"
        os.execvp("unshare", ["unshare", "--net", *inside, *COMMAND.split()[1:]])
    written = b""
    try:
        while part := os.read(terminal, 65536):
            written += part
    except OSError:
        pass  # A terminal ends so when its last writer is gone.
    _, status = os.waitpid(child, 0)
    if status:
        sys.exit(f"the program ended with status {os.waitstatus_to_exitcode(status)}")
    return written.decode()


def runs(line):
    """The parts of a line, each with its colour."""
    colour = PLAIN
    for part in re.split(r"(\x1b\[[0-9;]*m)", line):
        if part.startswith("\x1b["):
            for code in map(int, part[2:-1].split(";")):
                colour = {0: PLAIN, 1: BRIGHT, 2: DIM, **COLOURS}[code]
        elif part:
            yield part, colour


def draw(lines, path):
    """Draws lines of text with SGR colours, a cell for each character."""
    font = ImageFont.truetype(FONT, 22)
    width, height, margin = round(font.getlength("M")), 30, 24
    size = (2 * margin + COLUMNS * width, 2 * margin + len(lines) * height)
    image = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(image)
    for row, line in enumerate(lines):
        column = 0
        for text, colour in runs(line):
            for character in text:
                at = (margin + column * width, margin + row * height)
                pen.text(at, character, font=font, fill=colour)
                column += 1
    image.quantize(32).save(path, optimize=True)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    text = run(os.path.abspath(sys.argv[1])).replace("\r", "")
    lines = [f"\x1b[1m$ sudo {COMMAND}\x1b[0m", *text.rstrip("\n").split("\n")]
    draw(lines, os.path.join(HERE, "picture.png"))


if __name__ == "__main__":
    main()
