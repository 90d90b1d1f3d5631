#!/bin/sh
# lib_cidr_trie 1.2.11 (PyPI): a trie that holds a default route does not find it. An
# address that only 0.0.0.0/0 (or ::/0) covers is answered with None, as if nothing
# covered it; every longer prefix is found.
#
# Found while comparing longest-prefix matches on random sets of networks: all 213
# differences of 9,000 look-ups were default routes.
#
# Seen with CPython 3.11.7: None for 10.1.2.3 in {0.0.0.0/0}, None for 2001:db8::1 in
# {::/0}, and 0.0.0.0/1 for 10.1.2.3 in {0.0.0.0/1}.
# Exits 0 while that is so, 1 when it changes.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" --quiet --disable-pip-version-check install lib_cidr_trie==1.2.11
"$dir/venv/bin/python" - <<'PY'
from importlib.metadata import version
from ipaddress import ip_network

from lib_cidr_trie import IPv4CIDRTrie, IPv6CIDRTrie


def found(trie, network, address):
    trie.insert(ip_network(network))
    node = trie.get_most_specific_trie_supernet(ip_network(address))
    return None if node is None else str(node.prefix)


print("lib_cidr_trie", version("lib_cidr_trie"))
answers = {
    "10.1.2.3 in 0.0.0.0/0": found(IPv4CIDRTrie(), "0.0.0.0/0", "10.1.2.3/32"),
    "2001:db8::1 in ::/0": found(IPv6CIDRTrie(), "::/0", "2001:db8::1/128"),
    "10.1.2.3 in 0.0.0.0/1": found(IPv4CIDRTrie(), "0.0.0.0/1", "10.1.2.3/32"),
}
for question, answer in answers.items():
    print(f"{question}: {answer}")
assert list(answers.values()) == [None, None, "0.0.0.0/1"], "changed"
PY
