/*
 * The least that a verdict on a connect can cost: nothing at all, one look into a hash,
 * and what a policy by port, owner and network needs: two hashes, a trie and a counter.
 */
#include "bpf.h"

struct bpf_sock_addr {
	u32 user_family;
	u32 user_ip4;
	u32 user_ip6[4];
	u32 user_port;
	u32 family;
	u32 type;
	u32 protocol;
};

struct network {
	u32 length;
	u32 address;
};

struct {
	NUMBER(type, MAP_HASH);
	NUMBER(max_entries, 1024);
	TYPE(key, u32);
	TYPE(value, u32);
} limit_ports SEC(".maps");

struct {
	NUMBER(type, MAP_HASH);
	NUMBER(max_entries, 1024);
	TYPE(key, u64);
	TYPE(value, u32);
} limit_owners SEC(".maps");

struct {
	NUMBER(type, MAP_LPM_TRIE);
	NUMBER(max_entries, 1024);
	NUMBER(map_flags, NO_PREALLOC);
	TYPE(key, struct network);
	TYPE(value, u32);
} limit_networks SEC(".maps");

struct {
	NUMBER(type, MAP_PERCPU_ARRAY);
	NUMBER(max_entries, 2);
	TYPE(key, u32);
	TYPE(value, u64);
} limit_hits SEC(".maps");

SEC("cgroup/connect4")
int limit_empty(struct bpf_sock_addr *ctx)
{
	return 1;
}

SEC("cgroup/connect4")
int limit_hash(struct bpf_sock_addr *ctx)
{
	u32 port = ctx->user_port;

	return map_lookup(&limit_ports, &port) ? 0 : 1;
}

SEC("cgroup/connect4")
int limit_full(struct bpf_sock_addr *ctx)
{
	u32 port = ctx->user_port;
	u64 owner = cgroup_id();
	struct network network = { 32, ctx->user_ip4 };
	u32 *by_port = map_lookup(&limit_ports, &port);
	u32 *by_owner = map_lookup(&limit_owners, &owner);
	u32 *by_network = map_lookup(&limit_networks, &network);
	u32 denied = by_port && by_owner && by_network;
	u64 *hits = map_lookup(&limit_hits, &denied);

	if (hits)
		__sync_fetch_and_add(hits, 1);
	return denied ? 0 : 1;
}

char bench_license[] SEC("license") = "GPL";
