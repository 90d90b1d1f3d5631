#!/bin/sh
# polars 2.1.0: `read_ndjson` leaves out every field that the first 100 lines do not have,
# also fields of objects, without an error or a warning. With `infer_schema_length=None` it
# reads them all.
#
# Found while loading a stream whose last line, the account, has fields of its own.
#
# Seen, of 200 lines of which the last has one field more on top and one more in an object:
#   as it is: ['a', 'o'] Struct({'x': Int64}), no warning
#   infer_schema_length=None: ['a', 'o', 'rare'] Struct({'x': Int64, 'rare': Int64})
# Exits 0 while that is so, 1 when it changes.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" -q install polars==2.1.0
"$dir/venv/bin/python" - "$dir/lines.jsonl" <<'PYTHON'
import sys, warnings
import polars

with open(sys.argv[1], "w") as lines:
    lines.write('{"a":1,"o":{"x":1}}\n' * 199)
    lines.write('{"a":1,"o":{"x":1,"rare":2},"rare":3}\n')
with warnings.catch_warnings():
    warnings.simplefilter("error")
    first = polars.read_ndjson(sys.argv[1])
whole = polars.read_ndjson(sys.argv[1], infer_schema_length=None)
for name, frame in (("as it is", first), ("infer_schema_length=None", whole)):
    print(f"{name}: {frame.columns} {frame.schema['o']}")
is_so = "rare" not in first.columns and "rare" in whole.columns
if not is_so:
    print("changed")
sys.exit(not is_so)
PYTHON
