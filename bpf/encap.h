/*
 * The headers that go around a frame: Geneve (RFC 8926) or VXLAN (RFC 7348) over IPv4 or IPv6. Plain C
 * without maps.
 *
 * As the kernel's own tunnels and Open vSwitch do: no Geneve options, UDP checksum zero (RFC 6935),
 * don't fragment, hop limit 64, the ECN field from the inner packet.
 */
#ifndef OVERWEAVE_ENCAP_H
#define OVERWEAVE_ENCAP_H

#include "verdict.h"

#define OUTER_HOPS 64
#define FIRST_SOURCE_PORT 32768 /* the range that Linux takes them from, too (ip_local_port_range) */
#define SOURCE_PORTS 28232

/* What stands between the outer Ethernet header and the inner IP header. */
struct outer_ipv4 {
	struct iphdr ip;
	struct udphdr udp;
	struct tunnel_header tunnel;
	struct ethhdr inner;
} PACKED_HEADER;

struct outer_ipv6 {
	struct ipv6hdr ip;
	struct udphdr udp;
	struct tunnel_header tunnel;
	struct ethhdr inner;
} PACKED_HEADER;

/* What goes into a tunnel. */
struct payload {
	struct ethhdr eth ALIGNED;
	__u32 bytes; /* of the IP packet behind it, or of the whole super-packet */
	__u32 vni;
	__u32 hash; /* of its flow */
	__u8 ecn;
};

INLINE __be16
source_port(__u32 hash)
{
	hash ^= hash << 16;
	return __cpu_to_be16(FIRST_SOURCE_PORT + (__u16)(((__u64)hash * SOURCE_PORTS) >> 32));
}

/*
 * What was marked already is not marked outside, too (RFC 3168 9.1.1, not RFC 6040 4.1): the mark inside
 * stays, and the receiver need not look for it.
 */
INLINE __u8
outer_ecn(__u8 inner)
{
	return inner == ECN_CE ? ECN_ECT_0 : inner;
}

INLINE void
fill_udp(struct udphdr *udp, const struct entry_value *entry, __u32 bytes, __u32 hash)
{
	udp->source = source_port(hash);
	udp->dest = entry->port;
	udp->len = __cpu_to_be16(bytes);
	udp->check = 0;
}

INLINE void
fill_tunnel(struct tunnel_header *tunnel, const struct entry_value *entry, __u32 vni)
{
	tunnel->first = entry->encap == ENCAP_GENEVE ? GENEVE_FIRST : VXLAN_FIRST;
	tunnel->vni = __cpu_to_be32(vni << 8);
}

INLINE void
fill_ipv4(struct outer_ipv4 *outer, const struct entry_value *entry, const struct payload *payload)
{
	__u32 bytes = sizeof(*outer) + payload->bytes;
	struct iphdr *ip = &outer->ip;

	__builtin_memset(ip, 0, sizeof(*ip));
	ip->version = 4;
	ip->ihl = 5;
	ip->tos = outer_ecn(payload->ecn);
	ip->tot_len = __cpu_to_be16(bytes);
	ip->frag_off = __constant_htons(0x4000);
	ip->ttl = OUTER_HOPS;
	ip->protocol = IPPROTO_UDP;
	__builtin_memcpy(HALVES(&ip->saddr), WORDS(entry->local + 12), 4);
	__builtin_memcpy(HALVES(&ip->daddr), WORDS(entry->remote + 12), 4);
	ip->check = ~fold(sum16(ip, sizeof(*ip)));
	fill_udp(&outer->udp, entry, bytes - sizeof(*ip), payload->hash);
	fill_tunnel(&outer->tunnel, entry, payload->vni);
	copy_eth(&outer->inner, &payload->eth);
}

INLINE void
fill_ipv6(struct outer_ipv6 *outer, const struct entry_value *entry, const struct payload *payload)
{
	__u32 bytes = sizeof(*outer) - sizeof(outer->ip) + payload->bytes;
	struct ipv6hdr *ip = &outer->ip;

	__builtin_memset(ip, 0, sizeof(*ip));
	ip->version = 6;
	ip->flow_lbl[0] = outer_ecn(payload->ecn) << 4;
	ip->payload_len = __cpu_to_be16(bytes);
	ip->nexthdr = IPPROTO_UDP;
	ip->hop_limit = OUTER_HOPS;
	__builtin_memcpy(HALVES(&ip->saddr), WORDS(entry->local), 16);
	__builtin_memcpy(HALVES(&ip->daddr), WORDS(entry->remote), 16);
	fill_udp(&outer->udp, entry, bytes, payload->hash);
	fill_tunnel(&outer->tunnel, entry, payload->vni);
	copy_eth(&outer->inner, &payload->eth);
}

INLINE __u32
outer_bytes(const struct entry_value *entry)
{
	return is_mapped_ipv4(entry->remote) ? sizeof(struct outer_ipv4) : sizeof(struct outer_ipv6);
}

/*
 * Write the headers, of outer_bytes(), behind `eth`, which keeps its MACs; 0: they do not fit in before
 * `end`.
 */
INLINE int
write_outer(struct ethhdr *eth, const void *end, const struct entry_value *entry,
	    const struct payload *payload)
{
	void *outer = eth + 1;

	if (is_mapped_ipv4(entry->remote)) {
		if (outer + sizeof(struct outer_ipv4) > end)
			return 0;
		eth->h_proto = __constant_htons(ETH_P_IP);
		fill_ipv4(outer, entry, payload);
	} else {
		if (outer + sizeof(struct outer_ipv6) > end)
			return 0;
		eth->h_proto = __constant_htons(ETH_P_IPV6);
		fill_ipv6(outer, entry, payload);
	}
	return 1;
}

#endif
