#!/bin/sh
# Valgrind 3.19: a program is told by prctl(PR_GET_AUXV) where the vDSO is, and by getauxval(3)
# that there is none. Valgrind takes the vDSO out of the process, and AT_SYSINFO_EHDR out of
# the auxiliary vector on the stack; the system call, which Linux has since 6.4, it hands on to
# the kernel, which tells of its own vector. Whoever asks the kernel (rustix does, where it
# does not use the C library) is sent to memory that is not there any more.
#
# Found when `benches/sink.rs`, whose instructions Callgrind counts, ended at its first look at
# the number of clock ticks.
#
# Seen, natively and under Valgrind: `getauxval yes, prctl yes`, and `getauxval no, prctl yes`.
#
# Exits 0 while that is so, 1 when it changes.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
chmod 755 "$dir"
cd "$dir"
apt-get -qq -o APT::Sandbox::User=root download valgrind=1:3.19.0-1 >/dev/null
dpkg-deb -x valgrind_*.deb root
cat >ask.py <<'PY'
import ctypes
import struct

AT_SYSINFO_EHDR = 33
PR_GET_AUXV = 0x41555856
libc = ctypes.CDLL(None, use_errno=True)
libc.getauxval.restype = ctypes.c_ulong
room = ctypes.create_string_buffer(1024)
size = libc.prctl(PR_GET_AUXV, room, ctypes.c_ulong(len(room)), 0, 0)
if size < 0:
    raise SystemExit("no PR_GET_AUXV: Linux 6.4 or newer is needed")
told = dict(struct.iter_unpack("=LL" if struct.calcsize("L") == 4 else "=QQ", room[:size]))
words = {True: "yes", False: "no"}
by_c = words[libc.getauxval(AT_SYSINFO_EHDR) != 0]
by_kernel = words[told.get(AT_SYSINFO_EHDR, 0) != 0]
print(f"getauxval {by_c}, prctl {by_kernel}")
PY
python=/usr/bin/python3
natively=$("$python" ask.py)
under=$(VALGRIND_LIB="$dir/root/usr/libexec/valgrind" root/usr/bin/valgrind.bin -q --tool=none "$python" ask.py)
printf '%s\n%s\n' "$natively" "$under"
[ "$natively" = "getauxval yes, prctl yes" ] && [ "$under" = "getauxval no, prctl yes" ]
