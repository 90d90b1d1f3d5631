#!/bin/busybox sh
# Process 1 of a test guest: makes a small system, runs /command, powers off.
# What the command writes goes to the second serial port, apart from the kernel's
# own messages on the first.

/bin/busybox --install -s /bin 2>/dev/null
export PATH=/bin HOME=/tmp TERM=dumb

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t tracefs tracefs /sys/kernel/tracing
mount -t securityfs securityfs /sys/kernel/security
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
chmod 1777 /tmp
# The same bytes, in memory: from sysfs they come a page at a time, slowly.
cp /sys/kernel/btf/vmlinux /run/btf
mount --bind /run/btf /sys/kernel/btf/vmlinux
ln -s /proc/self/fd /dev/fd
mkdir /dev/pts
mount -t devpts devpts /dev/pts

for module in /modules/*.ko; do
    insmod "$module"
done
ip link set lo up
hostname guest
ulimit -n 65536
# A kernel that stumbles over one of our programs must not look healthy.
echo 1 >/proc/sys/kernel/panic_on_oops

stty -F /dev/ttyS1 raw -echo
{
    echo "guest: command starts"
    /command </dev/null
    echo "guest: command exits $?"
} >/dev/ttyS1 2>&1
# Wait until the port has sent everything; the command's orphans may hold it open.
stty -F /dev/ttyS1 sane
poweroff -f
