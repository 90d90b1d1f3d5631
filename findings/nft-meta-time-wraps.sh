#!/bin/sh
# nftables 1.0.6 (Debian 12): `meta time` is stored as nanoseconds in 64 bits without a
# check. A date before 1970, and one after 2554-07-21, silently becomes another date.
#
# Found while exporting rules with an end date. `meta time < "9999-12-31 23:59:59"` is
# meant never to end, and ends in the year 2400.
#
# Seen, with exit status 0 and no warning, in UTC:
#   9999-12-31 23:59:59 is listed as 2400-10-18 05:30:40
#   1969-12-31 23:59:59 is listed as 2400-10-27 03:19:24
#   2027-01-31 23:59:59 is listed as 2027-01-31 23:59:59
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
libraries="$dir/root/usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH 2>/dev/null || echo x86_64-linux-gnu)"
nft="$dir/root/usr/sbin/nft"
export nft LD_LIBRARY_PATH="$libraries" TZ=UTC
"$nft" --version
listed() {
    unshare --net sh -eu -c '
        "$nft" "add table inet t; add chain inet t c; add rule inet t c meta time < \"$1\" counter"
        "$nft" list table inet t' - "$1" | sed -n 's/.*meta time < "\(.*\)" counter.*/\1/p'
}
status=0
while read -r date expected; do
    seen=$(listed "$date 23:59:59")
    echo "$date 23:59:59 is listed as $seen"
    [ "$seen" = "$expected" ] || status=1
done <<'DATES'
9999-12-31 2400-10-18 05:30:40
1969-12-31 2400-10-27 03:19:24
2027-01-31 2027-01-31 23:59:59
DATES
[ $status = 0 ] || echo "changed"
exit $status
