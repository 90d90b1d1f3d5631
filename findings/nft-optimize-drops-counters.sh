#!/bin/sh
# nftables 1.0.6 (Debian 12): `nft --optimize` merges rules with different verdicts into
# one verdict map, and the counters and comments of all of them are gone. Rules with the
# same verdict keep one counter for all, and no comment.
#
# Found while telling people how to load an exported ruleset in which each rule has its
# name as a comment and a counter of its own. The merge is printed, the loss is not.
#
# Seen: of 2 rules with counter and comment, accept and drop, the loaded ruleset has
# 1 rule, 0 counters and 0 comments; without --optimize it has 2 of each.
# Needs root, for a network namespace of its own. Exits 0 while that is so, 1 when it
# changes.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
chmod 755 "$dir"
cd "$dir"
version=1.0.6-2+deb12u2
apt-get -qq -o APT::Sandbox::User=root download "nftables=$version" "libnftables1=$version" \
    libnftnl11 libxtables12 libjansson4 libedit2 libbsd0 libmnl0 >/dev/null
for package in *.deb; do dpkg-deb -x "$package" root; done
export LD_LIBRARY_PATH="$dir/root/usr/lib/x86_64-linux-gnu" PATH="$dir/root/usr/sbin:$PATH"
nft --version
cat >rules.nft <<'RULES'
table inet t {
	chain c {
		ip daddr 192.0.2.1 tcp dport 22 counter accept comment "admin"
		ip daddr 192.0.2.2 tcp dport 23 counter drop comment "legacy"
	}
}
RULES
status=0
for flags in --file "--optimize --file"; do
    # shellcheck disable=SC2086
    unshare --net sh -euc 'nft "$@" >/dev/null 2>&1; nft list ruleset' - $flags rules.nft >seen
    rules=$(grep -c daddr seen || true)
    counters=$(grep -c counter seen || true)
    comments=$(grep -c comment seen || true)
    echo "nft $flags: $rules rules, $counters counters, $comments comments"
    case "$flags: $rules $counters $comments" in
    "--file: 2 2 2" | "--optimize --file: 1 0 0") ;;
    *) status=1 ;;
    esac
done
[ $status = 0 ] || echo "changed"
exit $status
