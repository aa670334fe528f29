/*
 * Which tunnel socket a frame is for. Plain C without maps: bcc and a native compiler read it alike.
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

/* A UDP socket: IPv6 address or v4-mapped IPv4 address (RFC 4291 2.5.5.2), port; network order. */
struct socket_key {
	__u8 address[16];
	__be16 port;
	__u16 zero;
};

enum parsed {
	PARSED_NOT_UDP, /* also: fragments and extension headers, which only the host can put together */
	PARSED_SHORT,   /* the headers go on behind `end` */
	PARSED_UDP,
};

#define PARSE_BYTES (ETH_HLEN + 60 + sizeof(struct udphdr)) /* the longest IPv4 header is 60 bytes */

#define FRAGMENT_BITS __constant_htons(0x3fff) /* RFC 791: more fragments, or an offset */

static inline __attribute__((always_inline)) enum parsed
parse_port(const struct udphdr *udp, const void *end, struct socket_key *to)
{
	if ((const void *)(udp + 1) > end)
		return PARSED_SHORT;
	to->port = udp->dest;
	return PARSED_UDP;
}

static inline __attribute__((always_inline)) enum parsed
parse_ipv4(const void *l3, const void *end, struct socket_key *to)
{
	const struct iphdr *ip = l3;

	if ((const void *)(ip + 1) > end)
		return PARSED_SHORT;
	if (ip->version != 4 || ip->ihl < 5 || ip->protocol != IPPROTO_UDP ||
	    ip->frag_off & FRAGMENT_BITS)
		return PARSED_NOT_UDP;
	to->address[10] = 0xff;
	to->address[11] = 0xff;
	__builtin_memcpy(to->address + 12, &ip->daddr, 4);
	return parse_port(l3 + ip->ihl * 4, end, to);
}

static inline __attribute__((always_inline)) enum parsed
parse_ipv6(const void *l3, const void *end, struct socket_key *to)
{
	const struct ipv6hdr *ip = l3;
	const __be32 *to32 = ip->daddr.s6_addr32;

	if ((const void *)(ip + 1) > end)
		return PARSED_SHORT;
	/* A v4-mapped address is none on the wire, and would pass for our IPv4 address here. */
	if (ip->version != 6 || ip->nexthdr != IPPROTO_UDP ||
	    (to32[0] == 0 && to32[1] == 0 && to32[2] == __constant_htonl(0xffff)))
		return PARSED_NOT_UDP;
	__builtin_memcpy(to->address, &ip->daddr, 16);
	return parse_port((const void *)(ip + 1), end, to);
}

/* Fill the zeroed `to` from the frame in `eth`..`end`; `protocol` is its EtherType, network order. */
static inline __attribute__((always_inline)) enum parsed
parse_udp(const void *eth, const void *end, __be16 protocol, struct socket_key *to)
{
	if (protocol == __constant_htons(ETH_P_IP))
		return parse_ipv4(eth + ETH_HLEN, end, to);
	if (protocol == __constant_htons(ETH_P_IPV6))
		return parse_ipv6(eth + ETH_HLEN, end, to);
	return PARSED_NOT_UDP;
}

#endif
