#!/bin/bash
# Runs on a systemd that is too old for the package: unpacks the tarball, uses what was in it,
# and takes it away, by the commands of docs/install.md.
cd "$(dirname "$0")" || exit
. ./cases.sh
service=port-monitor

# Sources that are in libraries of every Debian, and that have no user and no host.
printf '%s\n' 'passwd: compat hesiod' 'group: compat' 'hosts: hesiod files dns' >/etc/nsswitch.conf
# The directories of what is taken away may be those of others.
present() { files | while read -r path; do [ -d "$path" ] || echo "$path"; done; }
before=$(present)
users_before=$(users)
mkdir packaged
dpkg-deb --fsys-tarfile new.deb | tar --extract --directory packaged ./usr/bin/port-monitor
is is-too-old-for-the-package has GLIBC_2.34 sh -c 'packaged/usr/bin/port-monitor --version 2>&1'

. ./unpack
is starts same "$(systemctl is-active $service)" active
metrics() { curl --silent --max-time 10 127.0.0.1:9758/metrics; }
is serves-metrics soon has port_monitor_build_info metrics
is keeps-history-with-executables soon has /usr/bin/curl port-monitor history -o csv
is names-users has ,root, port-monitor history -o csv
of_nobody() { port-monitor history -o csv --user 4242; }
setpriv --reuid=4242 --clear-groups curl --silent --max-time 10 127.0.0.1:9758/metrics >/dev/null
is tells-a-user-without-a-name soon has /usr/bin/curl of_nobody

# It sends to a host by name.
printf '%s\n' '[export.away]' 'type = "clickhouse"' 'url = "http://localhost:9/"' >>/etc/port-monitor/port-monitor.toml
is reloads systemctl reload $service
looks() { metrics >/dev/null && in_journal $service "export away: "; }
is looks-for-a-host soon looks
libraries() { grep -F .so "/proc/$(state $service MainPID)/maps"; }
is loads-no-library same "$(libraries)" ""
is has-a-manual test -s /usr/share/man/man1/port-monitor.1.gz

. ./remove
is accounts in_journal $service "dropped 0"
is leaves-no-file same "$(diff <(echo "$before") <(present))" ""
is leaves-no-user same "$(diff <(echo "$users_before") <(users))" ""
