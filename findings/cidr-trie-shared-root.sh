#!/bin/sh
# cidr-trie 3.1.2 (PyPI): every PatriciaTrie of a process shares one IPv4 root and one
# IPv6 root. A default route that is stored in one trie is found in all others.
#
# Found while looking for an independent longest-prefix match to compare ours with: two
# tries, one for what is allowed and one for what is denied, answered from each other.
#
# Seen with CPython 3.11.7: the second trie, into which nothing was put, answers
# [('0.0.0.0/0', 'first')] for 10.1.2.3. A prefix longer than /0 stays where it was put.
# Exits 0 while that is so, 1 when it changes.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" --quiet --disable-pip-version-check install cidr-trie==3.1.2
"$dir/venv/bin/python" - <<'PY'
from importlib.metadata import version

from cidr_trie import PatriciaTrie

first, second = PatriciaTrie(), PatriciaTrie()
first.insert("0.0.0.0/0", "first")
first.insert("192.0.2.0/24", "first")
route, longer = second.find_all("10.1.2.3"), second.find_all("192.0.2.1")
print("cidr-trie", version("cidr-trie"))
print("second, empty, asked for 10.1.2.3: ", route)
print("second, empty, asked for 192.0.2.1:", longer)
assert route == [("0.0.0.0/0", "first")], "changed: the tries no longer share their root"
PY
