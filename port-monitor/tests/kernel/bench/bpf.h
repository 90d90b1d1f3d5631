/* What the C programs of the benchmark need of the kernel's interface. */
#ifndef BENCH_BPF_H
#define BENCH_BPF_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
/* Fields by their name in the running kernel's BTF. */
#define RELOCATED __attribute__((preserve_access_index))

/* A map is described by the types of a struct's members. */
#define NUMBER(name, value) int (*name)[value]
#define TYPE(name, type) type *name

enum { MAP_HASH = 1, MAP_PERCPU_ARRAY = 6, MAP_LPM_TRIE = 11, MAP_RINGBUF = 27 };
enum { NO_PREALLOC = 1 };

/* Helpers by their number (include/uapi/linux/bpf.h). */
static void *(*const map_lookup)(void *map, const void *key) = (void *)1;
static u64 (*const pid_tgid)(void) = (void *)14;
static u64 (*const uid_gid)(void) = (void *)15;
static long (*const comm)(void *buffer, u32 size) = (void *)16;
static u64 (*const cgroup_id)(void) = (void *)80;
static u64 (*const boot_ns)(void) = (void *)125;
static void *(*const ring_reserve)(void *ring, u64 size, u64 flags) = (void *)131;
static void (*const ring_submit)(void *record, u64 flags) = (void *)132;

#endif
