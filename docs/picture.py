#!/usr/bin/env python3
"""Makes the pictures of the pages: what runs of port-monitor look like in a terminal.

Each run is a real one on a pseudo terminal, in a network namespace of its own where
there is nothing but loopback, with real traffic beside it. What is drawn is the
screen of that terminal. Needs root, curl, the Debian package fonts-dejavu-core,
Pillow and pyte (`pip install pillow pyte`):

    cargo build --release && sudo docs/picture.py target/release/port-monitor
"""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time

import pyte
from PIL import Image, ImageDraw, ImageFont

HERE = os.path.dirname(os.path.abspath(__file__))
FONT = "/usr/share/fonts/truetype/dejavu/DejaVuSansMono.ttf"
PATIENCE = 60
PAPER, PLAIN, DIM, BRIGHT = "#14171c", "#d7dae0", "#858c99", "#ffffff"
COLOURS = {
    "default": PLAIN,
    "dim": DIM,
    "red": "#ff6b6b",
    "green": "#7bd88f",
    "brown": "#f5c66b",
    "blue": "#7aa2f7",
    "cyan": "#6fd3d8",
    "white": PLAIN,
    "black": PAPER,
    "brightblack": DIM,
}

# A web server, two that send little by little, who takes it, and attempts that nobody
# answers, or that examples/policy.toml forbids.
TRAFFIC = """
cd "$1"
python3 -m http.server --bind ::1 80 >/dev/null 2>&1 &
trickle='import socket, sys, time
stream = socket.create_server(("127.0.0.1", int(sys.argv[1]))).accept()[0]
while stream.send(bytes(int(sys.argv[2]))):
    time.sleep(0.05)'
fetch() { curl --silent --output /dev/null --retry 10 --retry-connrefused --retry-delay 1 "$@"; }
python3 -c "$trickle" 8080 16000 &
python3 -c "$trickle" 5672 700 &
fetch --http0.9 127.0.0.1:8080 &
fetch --http0.9 127.0.0.1:5672 &
while :; do
    fetch '[::1]:80/small'
    curl --silent --output /dev/null 127.0.0.1:23
    curl --silent --output /dev/null 127.0.0.1:5432
    sleep 0.7
done
"""

# The file, the command, the columns and rows of the terminal, and what is done there:
# texts that have to be on the screen, each before the keys behind it. A run without any goes on to its end by itself.
TABLE = "port-monitor --policy examples/policy.toml -- sh examples/traffic.sh"
TOP = "port-monitor top --policy examples/policy.toml --remote 127.0.0.0/8 --remote ::1"
PICTURES = [
    ("picture.png", TABLE, (106, 16), []),
    ("top.png", TOP, (132, 22), [("5672", ""), ("refused  no-tel", "")]),
    (
        "detail.png",
        TOP,
        (132, 22),
        [("refused  no-tel", "/dir:out telnet\r"), ("telnet", "j\r"), ("policy explain", "")],
    ),
]


class Screen(pyte.Screen):
    """A screen that knows of dim text too."""

    def select_graphic_rendition(self, *attributes, **rest):
        """Dim text has a colour of its own."""
        super().select_graphic_rendition(*attributes, **rest)
        if 2 in attributes:
            self.cursor.attrs = self.cursor.attrs._replace(fg="dim")
        elif 22 in attributes and self.cursor.attrs.fg == "dim":
            self.cursor.attrs = self.cursor.attrs._replace(fg="default")


class Run:
    """A run on a terminal of its own."""

    def __init__(self, program, command, size, place):
        columns, rows = size
        self.screen = Screen(columns, rows)
        self.stream = pyte.ByteStream(self.screen)
        # It has the namespace, and its group is ended in the end.
        beside = ["unshare", "--net", "sh", "-c", "ip link set lo up; echo; exec sh -c \"$0\" sh \"$1\""]
        traffic = TRAFFIC if place else "exec sleep infinity"
        self.beside = subprocess.Popen(
            [*beside, traffic, place or "/"], stdout=subprocess.PIPE, start_new_session=True
        )
        self.beside.stdout.readline()
        inside = ["nsenter", f"--net=/proc/{self.beside.pid}/ns/net", program, *command.split()[1:]]
        child, self.terminal = pty.fork()
        if child == 0:
            size = struct.pack("HHHH", rows, columns, 0, 0)
            fcntl.ioctl(0, termios.TIOCSWINSZ, size)
            os.chdir(os.path.dirname(HERE))
            os.environ["TERM"] = "xterm-256color"
            os.execvp(inside[0], inside)
        self.child = child

    def read(self):
        """Takes what comes within a moment; whether more may come."""
        try:
            if select.select([self.terminal], [], [], 0.1)[0]:
                part = os.read(self.terminal, 65536)
                self.stream.feed(part)
                return bool(part)
        except OSError:
            return False  # A terminal ends so when its last writer is gone.
        return True

    def sees(self, text):
        """Waits until the text is on the screen."""
        begun = time.monotonic()
        while not any(text in line for line in self.screen.display):
            if time.monotonic() - begun > PATIENCE or not self.read():
                os.killpg(self.beside.pid, signal.SIGKILL)
                sys.exit(f"no {text!r}:\n" + "\n".join(self.screen.display))

    def settle(self, seconds):
        """Goes on for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.read()

    def types(self, keys):
        """Presses keys."""
        os.write(self.terminal, keys.encode())

    def end(self):
        """Waits for the end, which has to be a good one."""
        while self.read():
            pass
        _, status = os.waitpid(self.child, 0)
        os.killpg(self.beside.pid, signal.SIGKILL)
        self.beside.wait()
        if status:
            sys.exit(f"the program ended with status {os.waitstatus_to_exitcode(status)}")


def lines(screen):
    """The lines of a screen as texts with their colours, and what is behind them."""
    for row in range(screen.lines):
        cells = [screen.buffer[row][column] for column in range(screen.columns)]
        yield [look(cell) for cell in cells]


def look(cell):
    """A character, its colour and its background."""
    front = COLOURS.get(cell.fg) or f"#{cell.fg}"
    back = PAPER if cell.bg == "default" else COLOURS.get(cell.bg) or f"#{cell.bg}"
    if cell.bold and front == PLAIN:
        front = BRIGHT
    return (cell.data, back, front) if cell.reverse else (cell.data, front, back)


def draw(title, rows, path):
    """Draws a command and the screen below it, a cell for each character."""
    while rows and all(cell[0] == " " and cell[2] == PAPER for cell in rows[-1]):
        rows.pop()
    rows.insert(0, [(character, BRIGHT, PAPER) for character in title])
    font = ImageFont.truetype(FONT, 22)
    width, height, margin = round(font.getlength("M")), 30, 24
    size = (2 * margin + len(rows[-1]) * width, 2 * margin + len(rows) * height)
    image = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(image)
    for number, row in enumerate(rows):
        for column, (character, front, back) in enumerate(row):
            x, y = margin + column * width, margin + number * height
            if back != PAPER:
                pen.rectangle((x, y, x + width - 1, y + height - 1), fill=back)
            pen.text((x, y), character, font=font, fill=front)
    image.quantize(32).save(path, optimize=True)


def main():
    """Makes each of them."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    program = os.path.abspath(sys.argv[1])
    for name, command, size, steps in PICTURES:
        with tempfile.TemporaryDirectory() as place:
            with open(os.path.join(place, "small"), "wb") as out:
                out.write(bytes(2_000))
            run = Run(program, command, size, place if steps else None)
            for text, keys in steps:
                run.sees(text)
                run.settle(1.5)
                run.types(keys)
            if steps:
                shown = list(lines(run.screen))
                run.types("q")
                run.end()
            else:
                run.end()
                shown = list(lines(run.screen))
        draw(f"$ sudo {command}", shown, os.path.join(HERE, name))


if __name__ == "__main__":
    main()
