#!/bin/sh
# Linux (seen on 6.18): the reader of a BPF iterator over open files (`iter/task_file`)
# closes sockets of other processes. The iterator holds the file that it shows; where its
# process closes that in this moment, the last reference is the reader's, and the reader
# sends the FIN. Whoever takes the running process for the one that closed a connection
# (`inet_sock_set_state`, kprobes of `tcp_close`) names the reader.
#
# Found when a record named the monitor as the process that had closed a connection of
# another. Rare with close(2); close_range(2) takes all files out of the table before it
# ends any of them, and can meet the reader at one file after the other.
#
# Seen: of some 420,000 sockets that one process closed in 20 s by close_range(2), the
# reader of a pinned iterator sent the FIN of 16 to 60.
#
# The iterator is built by Debian 12's clang 14 and pinned by its bpftool. Needs root, for a
# mount namespace of its own and tracefs. Exits 0 while that is so, 1 when it changes.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
chmod 755 "$dir"
cd "$dir"
llvm=1:14.0.6-12
apt-get -qq -o APT::Sandbox::User=root download bpftool=7.1.0+6.1.176-1 "clang-14=$llvm" \
    "libclang-cpp14=$llvm" "libllvm14=$llvm" "libclang-common-14-dev=$llvm" \
    "libclang1-14=$llvm" libcap2 libelf1 libz3-4 libedit2 libbsd0 libmd0 libxml2 libicu72 \
    liblzma5 libtinfo6 >/dev/null
for package in *.deb; do dpkg-deb -x "$package" root; done
multiarch=x86_64-linux-gnu
export LD_LIBRARY_PATH="$dir/root/usr/lib/$multiarch:$dir/root/lib/$multiarch:$dir/root/usr/lib/llvm-14/lib"
cat >files.c <<'C'
struct bpf_iter_meta {
    void *seq;
} __attribute__((preserve_access_index));
struct bpf_iter__task_file {
    struct bpf_iter_meta *meta;
    void *task;
    unsigned int fd;
} __attribute__((preserve_access_index));

static long (*const bpf_seq_write)(void *, const void *, unsigned int) = (void *)127;

__attribute__((section("iter/task_file"), used)) int files(struct bpf_iter__task_file *ctx)
{
    unsigned int fd = ctx->fd;

    bpf_seq_write(ctx->meta->seq, &fd, sizeof(fd));
    return 0;
}

__attribute__((section("license"), used)) char gpl[] = "GPL";
C
root/usr/lib/llvm-14/bin/clang -target bpf -g -O2 -c files.c -o files.o
cat >rows.py <<'PY'
import os
import resource
import socket
import time

resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen(16)
end = time.monotonic() + 20
closed = 0
while time.monotonic() < end:
    files = []
    for _ in range(400):
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
        files += [client.detach(), server.detach()]
    os.closerange(min(files), max(files) + 1)
    closed += len(files)
print("sockets closed by", os.path.basename(os.sys.executable) + ":", closed)
PY
cp /bin/cat iter-reader
mkdir bpf trace
# shellcheck disable=SC2016
unshare --mount sh -eu -c '
    mount -t bpf bpf bpf
    mount -t tracefs tracefs trace
    root/usr/sbin/bpftool version | head -1
    root/usr/sbin/bpftool iter pin files.o bpf/files
    instance=trace/instances/iter-closes-$$
    mkdir "$instance"
    trap "echo 0 >$instance/events/enable; rmdir $instance" EXIT
    event=$instance/events/sock/inet_sock_set_state
    echo "newstate == 4 && comm == \"iter-reader\"" >"$event/filter"
    echo 1 >"$event/enable"
    python3 rows.py &
    rows=$!
    while kill -0 "$rows" 2>/dev/null; do ./iter-reader bpf/files >files.bin; done
    grep -c newstate=TCP_FIN_WAIT1 "$instance/trace" >count || true
'
echo "Linux $(uname -r | sed 's/-.*//'), FINs sent by the reader of the iterator: $(cat count)"
if [ "$(cat count)" -eq 0 ]; then
    echo "changed: the reader closed nothing"
    exit 1
fi
