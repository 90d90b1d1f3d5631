#!/bin/sh
# libcidr 1.0.1 (PyPI): PrefixIndex, a longest-prefix match over a level-compressed trie,
# answers with a shorter prefix than the longest that covers the address, once prefixes
# of very different lengths share a first bit.
#
# Found while comparing longest-prefix matches on random sets of networks: 234 of 24,000
# look-ups answered with a shorter prefix or with none.
#
# Seen with CPython 3.11.7: of 0.0.0.0/0, 128.0.0.0/1, 150.144.0.0/12 and 230.0.0.0/8 the
# index names 0.0.0.0/0 for 151.40.206.36, which 128.0.0.0/1 covers. Without any one of
# the two longer prefixes the answer is right.
# Exits 0 while that is so, 1 when it changes.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" --quiet --disable-pip-version-check install libcidr==1.0.1
"$dir/venv/bin/python" - <<'PY'
from importlib.metadata import version

from libcidr import IPv4Address, IPv4Network, PrefixIndex


def longest(networks, address):
    index = PrefixIndex([IPv4Network(network) for network in networks])
    return networks[index.lookup([IPv4Address(address)])[0]]


print("libcidr", version("libcidr"))
networks = ["0.0.0.0/0", "128.0.0.0/1", "150.144.0.0/12", "230.0.0.0/8"]
wrong = longest(networks, "151.40.206.36")
print("of", *networks, "the longest for 151.40.206.36:", wrong)
for left_out in networks[2:]:
    fewer = [network for network in networks if network != left_out]
    answer = longest(fewer, "151.40.206.36")
    print("without", left_out, "it is", answer)
    assert answer == "128.0.0.0/1", "changed"
assert wrong == "0.0.0.0/0", "changed: it names the longest prefix"
PY
