# What the tests in guests share. Each case prints a line, `NAME ... ok` or `NAME ... FAILED`,
# and what was seen where it failed.
for module in modules/*.ko; do insmod "$module"; done

# is NAME COMMAND...: the case holds if the command succeeds.
is() {
    local name=$1 said
    shift
    if said=$("$@" 2>&1); then
        echo "$name ... ok"
    else
        echo "$said"
        echo "$name ... FAILED"
    fi
}
# soon COMMAND...: succeeds as soon as the command does, within half a minute.
soon() {
    for ((look = 0; look < 150; look++)); do
        "$@" >/dev/null && return
        sleep 0.2
    done
    "$@"
}
not() { ! "$@"; }
same() { [ "$1" = "$2" ] || ! echo "found $1, not $2"; }
state() { systemctl show --property "$2" --value "$1"; }
has() { # FILE-LIKE OUTPUT of a command holds this text
    local text=$1
    shift
    "$@" | grep --quiet --fixed-strings -- "$text"
}
in_journal() { has "$2" journalctl --unit "$1" --output cat --no-pager; }

# But for this test, what is temporary, and what dpkg and those who change users keep for themselves.
files() {
    find / -xdev -not -path '/test/*' -not -path '/tmp/*' -not -path '/var/tmp/*' \
        -not -path /var/log/dpkg.log -not -path '/var/lib/dpkg/*-old' -not -path '/etc/*-' | sort
}
users() { getent passwd; getent group; }

# Who runs tests is root already.
sudo() { "$@"; }
