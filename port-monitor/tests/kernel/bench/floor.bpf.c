/*
 * The least that a monitor of connections can cost: one record of 152 bytes, as
 * port-monitor's, for each attempt and each accept, reserved, filled and submitted. It filters nothing, counts
 * what it loses, and remembers nothing.
 */
#include "bpf.h"

struct in6_addr {
	union {
		u32 u6_addr32[4];
	} in6_u;
} RELOCATED;

struct ns_common {
	u32 inum;
} RELOCATED;

struct net {
	struct ns_common ns;
} RELOCATED;

typedef struct {
	struct net *net;
} RELOCATED possible_net_t;

struct sock_common {
	u32 skc_daddr;
	u32 skc_rcv_saddr;
	u16 skc_dport;
	u16 skc_num;
	u16 skc_family;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
} RELOCATED;

struct sock {
	struct sock_common __sk_common;
} RELOCATED;

struct record {
	u64 ts_ns;
	u64 cgroup;
	u64 pid_tgid;
	u64 uid_gid;
	u32 netns;
	u32 kind;
	u32 local[4];
	u32 remote[4];
	u16 local_port;
	u16 remote_port;
	u32 family;
	char comm[16];
	u64 spare[7];
};

_Static_assert(sizeof(struct record) == 152, "as large as an event of port-monitor");

struct {
	NUMBER(type, MAP_RINGBUF);
	NUMBER(max_entries, 4 << 20);
} floor_ring SEC(".maps");

struct {
	NUMBER(type, MAP_PERCPU_ARRAY);
	NUMBER(max_entries, 1);
	TYPE(key, u32);
	TYPE(value, u64);
} floor_lost SEC(".maps");

INLINE int report(struct sock *sk, u32 kind)
{
	struct record *record = ring_reserve(&floor_ring, sizeof(*record), 0);

	if (!record) {
		u32 first = 0;
		u64 *lost = map_lookup(&floor_lost, &first);

		if (lost)
			*lost += 1;
		return 0;
	}
	record->ts_ns = boot_ns();
	record->cgroup = cgroup_id();
	record->pid_tgid = pid_tgid();
	record->uid_gid = uid_gid();
	record->netns = sk->__sk_common.skc_net.net->ns.inum;
	record->kind = kind;
	record->family = sk->__sk_common.skc_family;
	if (record->family == 10) {
		for (int i = 0; i < 4; i++) {
			record->local[i] = sk->__sk_common.skc_v6_rcv_saddr.in6_u.u6_addr32[i];
			record->remote[i] = sk->__sk_common.skc_v6_daddr.in6_u.u6_addr32[i];
		}
	} else {
		record->local[0] = sk->__sk_common.skc_rcv_saddr;
		record->remote[0] = sk->__sk_common.skc_daddr;
	}
	record->local_port = sk->__sk_common.skc_num;
	record->remote_port = sk->__sk_common.skc_dport;
	comm(record->comm, sizeof(record->comm));
	ring_submit(record, 0);
	return 0;
}

SEC("fentry/tcp_connect")
int floor_connect(u64 *args)
{
	return report((struct sock *)args[0], 1);
}

/* Since Linux 6.10: (sk, arg), so the result is the third. */
SEC("fexit/inet_csk_accept")
int floor_accept(u64 *args)
{
	struct sock *sk = (struct sock *)args[2];

	return sk ? report(sk, 2) : 0;
}

/* What the kernel's clock around a program adds to each run. */
SEC("fentry/tcp_connect")
int floor_empty(u64 *args)
{
	return 0;
}

char bench_license[] SEC("license") = "GPL";
