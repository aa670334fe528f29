/*
 * The plain C of the fast path for a native compiler: what overlay.c does with maps and helpers of the
 * kernel is done here with tables and memory. No byte behind what the program may read can be read.
 */
#include <sanitizer/asan_interface.h>
#include <string.h>

#include "encap.h"

/* Python, which loads this, was started without the sanitizer. */
const char *
__asan_default_options(void)
{
	return "verify_asan_link_order=0:detect_leaks=0";
}

#define MAX_ROWS 4096
#define MAX_FRAME (1 << 17)
#define REDZONE 4096
#define HEADROOM 128 /* for what is put in front */
#define ALIGNMENT 2  /* as the kernel's NET_IP_ALIGN: the IP header begins at a multiple of 4 */

enum { PORTS, NEIGHBOURS, ENTRIES, MEMBERS, OWN, NICS, TABLES };

static const struct shape {
	size_t key, value;
} shapes[TABLES] = {
	[PORTS] = {sizeof(__u32), sizeof(struct port_value)},
	[NEIGHBOURS] = {sizeof(struct neighbour_key), sizeof(struct neighbour_value)},
	[ENTRIES] = {sizeof(struct entry_key), sizeof(struct entry_value)},
	[MEMBERS] = {sizeof(struct member_key), sizeof(__u32)},
	[OWN] = {sizeof(struct socket_key), sizeof(struct own_value)},
	[NICS] = {sizeof(__u32), sizeof(struct nic_value)},
};

struct row {
	__u8 key[32] __attribute__((aligned(8)));
	__u8 value[sizeof(struct port_value)] __attribute__((aligned(8)));
};

static struct row tables[TABLES][MAX_ROWS];
static size_t used[TABLES];

/* What the program makes of a frame; `frame` has what leaves. */
struct outcome {
	__u32 verdict;
	__u32 reason;
	__u32 is_remote;
	__u32 ifindex;
	__u32 length;
};

static __u8 memory[REDZONE + MAX_FRAME + REDZONE] __attribute__((aligned(8)));

void
native_clear(void)
{
	memset(used, 0, sizeof(used));
}

int
native_put(__u32 table, const void *key, size_t key_bytes, const void *value, size_t value_bytes)
{
	struct row *row;

	if (table >= TABLES || used[table] == MAX_ROWS || key_bytes != shapes[table].key ||
	    value_bytes != shapes[table].value)
		return -1;
	row = &tables[table][used[table]++];
	memcpy(row->key, key, key_bytes);
	memcpy(row->value, value, value_bytes);
	return 0;
}

static void *
look_up(int table, const void *key)
{
	size_t i;

	for (i = 0; i < used[table]; i++)
		if (!memcmp(tables[table][i].key, key, shapes[table].key))
			return tables[table][i].value;
	return NULL;
}

static inline struct neighbour_value *
find_neighbour(const struct neighbour_key *key)
{
	return look_up(NEIGHBOURS, key);
}

static inline struct entry_value *
find_entry(const struct entry_key *key)
{
	return look_up(ENTRIES, key);
}

static inline int
has_member(const struct member_key *key)
{
	return look_up(MEMBERS, key) != NULL;
}

/* Return where the frame is, of which `readable` bytes may be read: the rest is in another page. */
static __u8 *
place(const __u8 *frame, size_t length, size_t readable)
{
	__u8 *eth = memory + REDZONE + HEADROOM + ALIGNMENT;

	ASAN_UNPOISON_MEMORY_REGION(memory, sizeof(memory));
	memcpy(eth, frame, length);
	ASAN_POISON_MEMORY_REGION(memory, eth - memory);
	ASAN_POISON_MEMORY_REGION(eth + readable, memory + sizeof(memory) - eth - readable);
	return eth;
}

static void
leave(struct outcome *outcome, __u8 *frame, const __u8 *data, size_t length)
{
	ASAN_UNPOISON_MEMORY_REGION(memory, sizeof(memory));
	memcpy(frame, data, length);
	outcome->length = length;
}

static size_t
smaller(size_t one, size_t other)
{
	return one < other ? one : other;
}

static void
encapsulate(struct outcome *outcome, __u8 *frame, __u8 *eth, size_t length, const struct entry_value *entry,
	    const struct payload *payload)
{
	size_t room = outer_bytes(entry);
	__u8 *start = memory + REDZONE + ALIGNMENT; /* on a processor that minds, the kernel aligns it */

	ASAN_UNPOISON_MEMORY_REGION(memory, sizeof(memory));
	memmove(start + room, eth, length);
	memcpy(start, start + room, ETH_HLEN);
	ASAN_POISON_MEMORY_REGION(memory, start - memory);
	ASAN_POISON_MEMORY_REGION(start + ETH_HLEN + room, memory + sizeof(memory) - start - ETH_HLEN - room);
	write_outer((struct ethhdr *)start, start + ETH_HLEN + room, entry, payload);
	leave(outcome, frame, start, length + room);
}

size_t
native_bytes_read(__be16 protocol)
{
	return bytes_read(protocol);
}

/* As access_port in overlay.c; `frame` has room for the headers. */
int
native_sent(__u32 ifindex, __u8 *frame, size_t length, __u32 gso_size, __u32 hash, struct outcome *outcome)
{
	const struct port_value *port = look_up(PORTS, &ifindex);
	struct decision decision = {};
	struct inner inner = {};
	__be16 protocol = 0;
	size_t linear;
	__u8 *eth;

	if (!port || length > MAX_FRAME - HEADROOM)
		return -1;
	if (length >= ETH_HLEN)
		memcpy(&protocol, frame + 2 * ETH_ALEN, sizeof(protocol));
	linear = smaller(length, bytes_read(protocol));
	eth = place(frame, length, linear);
	outcome->verdict = judge_sent(port, ifindex, eth, eth + linear, length, gso_size, &inner, &decision);
	outcome->reason = decision.reason;
	if (outcome->verdict == VERDICT_ANSWER_ARP)
		answer_arp((struct ethhdr *)eth, decision.mac);
	else if (outcome->verdict == VERDICT_ANSWER_ND)
		answer_nd((struct ethhdr *)eth, decision.mac);
	if (outcome->verdict != VERDICT_FORWARD) {
		leave(outcome, frame, eth, length);
		return 0;
	}
	outcome->ifindex = decision.entry->ifindex;
	outcome->is_remote = decision.entry->kind == ENTRY_REMOTE;
	if (outcome->is_remote) {
		struct payload payload = {.bytes = length - ETH_HLEN, .vni = port->vni, .hash = hash,
					  .ecn = inner.ecn};

		memcpy(&payload.eth, eth, ETH_HLEN);
		encapsulate(outcome, frame, eth, length, decision.entry, &payload);
	} else
		leave(outcome, frame, eth, length);
	return 0;
}

/* As underlay in overlay.c, for a frame to the MAC of the NIC; 0: not a packet for one of our sockets. */
int
native_received(__u8 *frame, size_t length, int is_known_sum, struct outcome *outcome)
{
	size_t linear = smaller(length, PARSE_BYTES);
	struct decision decision = {};
	struct outer outer = {};
	struct tunnelled found ALIGNED;
	const struct own_value *socket;
	__be16 protocol;
	__u8 *eth;

	if (length < ETH_HLEN || length > MAX_FRAME - HEADROOM)
		return 0;
	eth = place(frame, length, linear);
	memcpy(&protocol, eth + 2 * ETH_ALEN, sizeof(protocol));
	if (parse_udp(eth, eth + linear, protocol, &outer) != PARSED_UDP)
		return 0;
	socket = look_up(OWN, &outer.to);
	if (!socket)
		return 0;
	ASAN_UNPOISON_MEMORY_REGION(eth, length);
	if (outer.l4 + sizeof(found) > length) {
		outcome->verdict = VERDICT_OVS;
		outcome->reason = REASON_MALFORMED;
		leave(outcome, frame, eth, length);
		return 1;
	}
	memcpy(&found, eth + outer.l4, sizeof(found));
	outcome->verdict = judge_received(&outer, &found, socket, length, is_known_sum || !found.udp.check,
					  &decision);
	outcome->reason = decision.reason;
	if (outcome->verdict == VERDICT_FORWARD) {
		outcome->ifindex = decision.entry->ifindex;
		eth += outer.l4 + sizeof(struct udphdr) + sizeof(struct tunnel_header);
		length -= outer.l4 + sizeof(struct udphdr) + sizeof(struct tunnel_header);
	}
	leave(outcome, frame, eth, length);
	return 1;
}

/* As overweave_xdp in overlay.c; 0: it passes the frame. */
int
native_early(__u32 ifindex, __u8 *frame, size_t length, struct outcome *outcome)
{
	const struct nic_value *nic = look_up(NICS, &ifindex);
	struct decision decision = {};
	struct outer outer = {};
	const struct own_value *socket;
	__u8 *eth;

	if (length < ETH_HLEN || length > MAX_FRAME - HEADROOM)
		return 0;
	eth = place(frame, length, length);
	if (parse_udp(eth, eth + length, ((struct ethhdr *)eth)->h_proto, &outer) != PARSED_UDP)
		return 0;
	socket = look_up(OWN, &outer.to);
	if (!socket || !nic)
		return 0;
	outcome->verdict = judge_early(eth, eth + length, length, &outer, socket, nic, &decision);
	outcome->reason = decision.reason;
	leave(outcome, frame, eth, length);
	return outcome->verdict == VERDICT_DROP;
}
