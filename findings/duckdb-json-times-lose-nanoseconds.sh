#!/bin/sh
# DuckDB 2.0.1: `read_json` takes strings that look like times for TIMESTAMPTZ, which has
# microseconds, and cuts off the rest of the digits without a word. Events that are less
# than a microsecond apart become equal, and their order is lost.
#
# Found while loading RFC 3339 times with nine digits.
#
# Seen: TIMESTAMP WITH TIME ZONE, 1 different time of 2; as VARCHAR 2 of 2.
# Exits 0 while that is so, 1 when it changes.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" -q install duckdb==2.0.1
"$dir/venv/bin/python" - "$dir/lines.jsonl" <<'PYTHON'
import sys
import duckdb

with open(sys.argv[1], "w") as lines:
    for ns in ("100000001", "100000999"):
        lines.write('{"t":"2026-11-22T12:00:00.%sZ"}\n' % ns)
count = "SELECT any_value(typeof(t)), count(DISTINCT t) FROM read_json(?%s)"
inferred = duckdb.execute(count % "", [sys.argv[1]]).fetchone()
text = duckdb.execute(count % ", columns={t: 'VARCHAR'}", [sys.argv[1]]).fetchone()
print("inferred:", inferred, " as text:", text)
is_so = inferred[1] == 1 and text[1] == 2
if not is_so:
    print("changed")
sys.exit(not is_so)
PYTHON
