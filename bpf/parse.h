/*
 * What a frame says, as far as a verdict needs it. Plain C without maps: bcc and a native compiler
 * read it alike. Nothing here is believed that was not read inside the frame.
 */
#ifndef OVERWEAVE_PARSE_H
#define OVERWEAVE_PARSE_H

#include <asm/byteorder.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/types.h>
#include <linux/udp.h>

#define INLINE static inline __attribute__((always_inline))
#define ALIGNED __attribute__((aligned(4))) /* of packed headers: what is in them needs it */

/*
 * A compiler that does not know where a pointer points goes by bytes. What is in a frame is aligned to
 * halves of words at least, what is in a map or on the stack to words.
 */
#define PACKED_HEADER __attribute__((packed, aligned(2)))
#define HALVES(pointer) __builtin_assume_aligned(pointer, 2)
#define WORDS(pointer) __builtin_assume_aligned(pointer, 4)

/* A UDP socket: IPv6 address or v4-mapped IPv4 address (RFC 4291 2.5.5.2), port; network order. */
struct socket_key {
	__u8 address[16];
	__be16 port;
	__u16 zero;
};

/* A tunnel packet for one of our sockets: who sent it to which, and what was written on it. */
struct outer {
	struct socket_key to;
	__u8 from[16];
	__u32 bytes;    /* of the frame, by what the IP header says */
	__u16 l4;       /* offset of the UDP header */
	__u8 ecn;       /* RFC 3168 */
	__u8 has_fault; /* options, or a wrong checksum of the IPv4 header: RFC 1122 3.2.1.2 */
};

enum parsed {
	PARSED_NOT_UDP, /* also: fragments and extension headers, which only the host can put together */
	PARSED_SHORT,   /* the headers go on behind `end` */
	PARSED_UDP,
};

#define PARSE_BYTES (ETH_HLEN + 60 + sizeof(struct udphdr)) /* the longest IPv4 header is 60 bytes */

#define FRAGMENT_BITS __constant_htons(0x3fff) /* RFC 791: more fragments, or an offset */
#define ECN_ECT_0 2
#define ECN_CE 3

INLINE void
map_ipv4(__u8 mapped[16], const void *address)
{
	mapped[10] = 0xff;
	mapped[11] = 0xff;
	__builtin_memcpy(WORDS(mapped + 12), HALVES(address), 4);
}

/* Not on the wire (RFC 4291 2.5.5.2), and here it would pass for the IPv4 address. */
INLINE int
is_mapped_ipv4(const void *address)
{
	__u32 words[4];

	__builtin_memcpy(words, HALVES(address), sizeof(words));
	return !words[0] && !words[1] && words[2] == __constant_htonl(0xffff);
}

/* By halves of words, which every Ethernet header is aligned to: its structure is packed, by bytes. */
INLINE void
copy_eth(struct ethhdr *to, const struct ethhdr *from)
{
	const __u16 *words = (const void *)from;
	__u16 *copy = (void *)to;
	unsigned int i;

#pragma unroll
	for (i = 0; i < ETH_HLEN / sizeof(*words); i++)
		copy[i] = words[i];
}

INLINE __u32
sum16(const void *data, int bytes)
{
	const __u16 *words = data;
	__u32 sum = 0;
	int i;

#pragma unroll
	for (i = 0; i < bytes / 2; i++)
		sum += words[i];
	return sum;
}

/* RFC 1071: the sum of so few words that it needs folding twice at most. */
INLINE __u16
fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

INLINE __u8
ecn_of_ipv6(const struct ipv6hdr *ip)
{
	return (ip->flow_lbl[0] >> 4) & 3; /* the traffic class ends in the second byte's upper half */
}

INLINE enum parsed
parse_port(const void *eth, const void *l4, const void *end, struct outer *outer)
{
	const struct udphdr *udp = l4;

	if ((const void *)(udp + 1) > end)
		return PARSED_SHORT;
	outer->to.port = udp->dest;
	outer->l4 = (__u16)(l4 - eth);
	return PARSED_UDP;
}

INLINE enum parsed
parse_ipv4(const void *eth, const void *end, struct outer *outer)
{
	const struct iphdr *ip = eth + ETH_HLEN;

	if ((const void *)(ip + 1) > end)
		return PARSED_SHORT;
	if (ip->version != 4 || ip->ihl < 5 || ip->protocol != IPPROTO_UDP ||
	    ip->frag_off & FRAGMENT_BITS)
		return PARSED_NOT_UDP;
	map_ipv4(outer->to.address, &ip->daddr);
	map_ipv4(outer->from, &ip->saddr);
	outer->bytes = ETH_HLEN + __be16_to_cpu(ip->tot_len);
	outer->ecn = ip->tos & 3;
	outer->has_fault = ip->ihl != 5 || fold(sum16(ip, sizeof(*ip))) != 0xffff;
	return parse_port(eth, (const void *)ip + ip->ihl * 4, end, outer);
}

INLINE enum parsed
parse_ipv6(const void *eth, const void *end, struct outer *outer)
{
	const struct ipv6hdr *ip = eth + ETH_HLEN;

	if ((const void *)(ip + 1) > end)
		return PARSED_SHORT;
	if (ip->version != 6 || ip->nexthdr != IPPROTO_UDP || is_mapped_ipv4(&ip->daddr) ||
	    is_mapped_ipv4(&ip->saddr))
		return PARSED_NOT_UDP;
	__builtin_memcpy(WORDS(outer->to.address), HALVES(&ip->daddr), 16);
	__builtin_memcpy(WORDS(outer->from), HALVES(&ip->saddr), 16);
	outer->bytes = ETH_HLEN + sizeof(*ip) + __be16_to_cpu(ip->payload_len);
	outer->ecn = ecn_of_ipv6(ip);
	return parse_port(eth, (const void *)(ip + 1), end, outer);
}

/* Fill the zeroed `outer` from the frame in `eth`..`end`; `protocol`: its EtherType, network order. */
INLINE enum parsed
parse_udp(const void *eth, const void *end, __be16 protocol, struct outer *outer)
{
	if (protocol == __constant_htons(ETH_P_IP))
		return parse_ipv4(eth, end, outer);
	if (protocol == __constant_htons(ETH_P_IPV6))
		return parse_ipv6(eth, end, outer);
	return PARSED_NOT_UDP;
}

#endif
