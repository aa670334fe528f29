/*
 * What becomes of a frame: the rules of the fast path, with the structures they rest on. Plain C:
 * who includes this defines the functions that look things up.
 *
 * The fast path only says yes. Whatever it does not know, or would refuse, goes to Open vSwitch with
 * a numbered reason, and that says no: so the two cannot disagree about what is forbidden.
 */
#ifndef OVERWEAVE_VERDICT_H
#define OVERWEAVE_VERDICT_H

#include <linux/tcp.h>

#include "parse.h"
#include "reasons.h"

enum guard { GUARD_OFF, GUARD_MAC, GUARD_IP };

#define PORT_ADDRESSES 16

/* Of an AccessPort; all in host order but the MAC and the addresses. */
struct port_value {
	__u32 vni;
	__u32 mtu; /* bytes of the largest IP packet */
	__u8 mac[ETH_ALEN];
	__u8 guard;
	__u8 count; /* of the addresses; what it may send from beyond these, Open vSwitch knows */
	__u8 addresses[PORT_ADDRESSES][16]; /* that it may send from, with GUARD_IP */
};

/* Who has an address on a segment: what ARP and ND are answered with. */
struct neighbour_key {
	__u32 vni;
	__u8 address[16];
};

struct neighbour_value {
	__u8 mac[ETH_ALEN];
	__u16 local; /* the agent's own note: 1, if it is a pod of this node */
};

struct entry_key {
	__u32 vni;
	__u8 mac[ETH_ALEN];
	__u16 zero;
};

enum entry_kind { ENTRY_VETH = 1, ENTRY_NETDEV, ENTRY_REMOTE };
enum encap { ENCAP_GENEVE = 1, ENCAP_VXLAN };

/*
 * Where a MAC is: the AccessPort `ifindex`, or behind the VTEP `remote`, which is reached from `local`
 * over the NIC `ifindex`. Addresses and port in network order, and how often it was used.
 */
struct entry_value {
	__u32 ifindex;
	__u8 kind;
	__u8 encap;
	__be16 port;
	__u8 local[16];
	__u8 remote[16];
	__u64 packets;
	__u64 bytes;
};

/* A VTEP that may send frames of a segment to us. */
struct member_key {
	__u32 vni;
	__u32 encap;
	__u8 vtep[16];
};

/* Of an underlay NIC. */
struct nic_value {
	__u8 mac[ETH_ALEN];
	__u16 zero;
};

/* Of one of our UDP sockets: which packets come there, and what is done with them. */
struct own_value {
	__u32 encap; /* enum encap */
	__u32 flags;
};

#define OWN_FAST 1      /* else Open vSwitch takes all of it in */
#define OWN_EXCLUSIVE 2 /* what is not known is nobody else's: drop it */

/* What a pod sends, as far as it was read. */
struct inner {
	__u8 source[16] ALIGNED;
	__u8 target[16] ALIGNED; /* of a question */
	__u8 protocol;
	__u8 ecn;
	__u16 headers; /* bytes of IP and transport header, what every segment has */
};

/* RFC 8926 section 3.4, RFC 7348 section 5: both have the VNI in the same place. */
struct tunnel_header {
	__be32 first;
	__be32 vni; /* upper 24 bits */
} PACKED_HEADER;

#define GENEVE_FIRST __constant_htonl(0x6558) /* version 0, no options; an Ethernet frame inside */
#define VXLAN_FIRST __constant_htonl(0x08000000) /* only flag: the VNI is valid */

/* What is found at the UDP header of a tunnel packet. */
struct tunnelled {
	struct udphdr udp;
	struct tunnel_header header;
	struct ethhdr inner;
} PACKED_HEADER;

enum verdict {
	VERDICT_OVS,        /* Open vSwitch decides */
	VERDICT_HOST,       /* not ours: the host's stack decides */
	VERDICT_DROP,
	VERDICT_ANSWER_ARP, /* back to who asked */
	VERDICT_ANSWER_ND,
	VERDICT_FORWARD,
};

/* What goes with a verdict. */
struct decision {
	enum reason reason;        /* unless forwarded */
	struct entry_value *entry; /* where to */
	__u8 mac[ETH_ALEN];        /* who has the address that was asked for */
	__u16 zero;
};

/* For these, what is not there is NULL or 0. */
static inline struct neighbour_value *find_neighbour(const struct neighbour_key *key);
static inline struct entry_value *find_entry(const struct entry_key *key);
static inline int has_member(const struct member_key *key);

enum inner_kind { INNER_IP, INNER_ARP_REQUEST, INNER_SOLICITATION, INNER_OTHER };

#define ARP_ETHERNET 1 /* RFC 826: hardware address space, operations */
#define ARP_REQUEST 1
#define ARP_REPLY 2

#define ND_FIRST 133 /* RFC 4861: router solicitation */
#define ND_LAST 137  /* redirect */
#define ND_SOLICITATION 135
#define ND_ADVERTISEMENT 136
#define ND_SOURCE_OPTION 1
#define ND_TARGET_OPTION 2

/* RFC 826 for Ethernet and IPv4. */
struct arp_packet {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_bytes;
	__u8 protocol_bytes;
	__be16 operation;
	__u8 sender_mac[ETH_ALEN];
	__u8 sender_ip[4];
	__u8 target_mac[ETH_ALEN];
	__u8 target_ip[4];
} PACKED_HEADER;

/* RFC 4861 sections 4.3 and 4.4 with the one option that tells a MAC; both have the same length. */
struct nd_packet {
	struct ipv6hdr ip;
	__u8 type;
	__u8 code;
	__u16 checksum;
	__be32 flags;
	__u8 target[16];
	__u8 option;
	__u8 option_words;
	__u8 mac[ETH_ALEN];
} PACKED_HEADER;

#define ND_SUMMED_WORDS (16 + 1 + 14) /* of 16 bits, see sum_nd */

/*
 * Bytes that are read of a frame of `protocol`, network order. No more: of a TCP super-packet only the
 * headers are where they can be read, and to pull a byte of what is behind them copies them all.
 */
INLINE __u32
bytes_read(__be16 protocol)
{
	return ETH_HLEN + (protocol == __constant_htons(ETH_P_IP) ? sizeof(struct iphdr) + sizeof(struct tcphdr)
								  : sizeof(struct nd_packet));
}

INLINE int
same_mac(const __u8 *one, const __u8 *other)
{
	__u16 a[3], b[3];

	__builtin_memcpy(a, HALVES(one), sizeof(a));
	__builtin_memcpy(b, HALVES(other), sizeof(b));
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2];
}

INLINE int
same_address(const __u8 *one, const __u8 *other)
{
	__u32 a[4], b[4];

	__builtin_memcpy(a, WORDS(one), sizeof(a));
	__builtin_memcpy(b, WORDS(other), sizeof(b));
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3];
}

INLINE int
is_group(const __u8 *mac)
{
	return mac[0] & 1;
}

INLINE int
is_unspecified(const __u8 *address)
{
	__u32 words[4];

	__builtin_memcpy(words, address, sizeof(words));
	return !words[0] && !words[1] && !words[2] && !words[3];
}

INLINE enum inner_kind
other(enum reason *why, enum reason reason)
{
	*why = reason;
	return INNER_OTHER;
}

/* Bytes of transport header that every segment of a TCP super-packet has; 0: not all can be read. */
INLINE __u16
tcp_bytes(const void *l4, const void *end)
{
	const struct tcphdr *tcp = l4;

	return (const void *)(tcp + 1) <= end ? tcp->doff * 4 : 0;
}

INLINE enum inner_kind
parse_inner_ipv4(const void *l3, const void *end, __u32 length, struct inner *inner, enum reason *why)
{
	const struct iphdr *ip = l3;
	__u16 total;

	if ((const void *)(ip + 1) > end)
		return other(why, REASON_MALFORMED);
	total = __be16_to_cpu(ip->tot_len);
	if (ip->version != 4 || ip->ihl < 5 || total < sizeof(*ip) || total > length)
		return other(why, REASON_MALFORMED);
	if (ip->ihl != 5)
		return other(why, REASON_IP_OPTIONS);
	if (ip->frag_off & FRAGMENT_BITS)
		return other(why, REASON_FRAGMENT);
	map_ipv4(inner->source, &ip->saddr);
	inner->protocol = ip->protocol;
	inner->ecn = ip->tos & 3;
	inner->headers = sizeof(*ip);
	if (ip->protocol == IPPROTO_TCP)
		inner->headers += tcp_bytes(ip + 1, end);
	return INNER_IP;
}

INLINE enum inner_kind
parse_solicitation(const struct nd_packet *nd, const void *end, struct inner *inner, enum reason *why)
{
	/* Only what has just the one option: there the answer's own has its place (RFC 4861 7.1.1). */
	if ((const void *)(nd + 1) > end || nd->type != ND_SOLICITATION || nd->code != 0 ||
	    nd->ip.hop_limit != 255 || nd->ip.payload_len != __constant_htons(32) ||
	    nd->option != ND_SOURCE_OPTION || nd->option_words != 1 ||
	    is_unspecified(inner->source) || is_mapped_ipv4(nd->target))
		return other(why, REASON_ND);
	__builtin_memcpy(inner->target, nd->target, 16);
	return INNER_SOLICITATION;
}

INLINE enum inner_kind
parse_inner_ipv6(const void *l3, const void *end, __u32 length, struct inner *inner, enum reason *why)
{
	const struct ipv6hdr *ip = l3;
	const __u8 *icmp_type;

	if ((const void *)(ip + 1) > end || ip->version != 6 ||
	    sizeof(*ip) + __be16_to_cpu(ip->payload_len) > length)
		return other(why, REASON_MALFORMED);
	if (is_mapped_ipv4(&ip->saddr))
		return other(why, REASON_GUARD);
	__builtin_memcpy(WORDS(inner->source), HALVES(&ip->saddr), 16);
	inner->protocol = ip->nexthdr;
	inner->ecn = ecn_of_ipv6(ip);
	inner->headers = sizeof(*ip);
	switch (ip->nexthdr) {
	case IPPROTO_TCP:
		inner->headers += tcp_bytes(ip + 1, end);
		return INNER_IP;
	case IPPROTO_UDP:
	case IPPROTO_SCTP:
		return INNER_IP;
	case IPPROTO_ICMPV6:
		icmp_type = (const void *)(ip + 1);
		if ((const void *)(icmp_type + 1) > end)
			return other(why, REASON_MALFORMED);
		if (*icmp_type < ND_FIRST || *icmp_type > ND_LAST)
			return INNER_IP;
		return parse_solicitation(l3, end, inner, why);
	default: /* also fragments: what stands behind an extension header is for OVS to find */
		return other(why, REASON_IP_OPTIONS);
	}
}

INLINE enum inner_kind
parse_inner_arp(const struct arp_packet *arp, const void *end, struct inner *inner, enum reason *why)
{
	if ((const void *)(arp + 1) > end || arp->hardware != __constant_htons(ARP_ETHERNET) ||
	    arp->protocol != __constant_htons(ETH_P_IP) || arp->hardware_bytes != ETH_ALEN ||
	    arp->protocol_bytes != 4 || arp->operation != __constant_htons(ARP_REQUEST))
		return other(why, REASON_ARP);
	map_ipv4(inner->source, arp->sender_ip);
	map_ipv4(inner->target, arp->target_ip);
	return INNER_ARP_REQUEST;
}

/*
 * Read the untagged frame in `eth`..`end`, of `length` bytes in all, into the zeroed `inner`; `why` is
 * set where it is none that the fast path takes.
 */
INLINE enum inner_kind
parse_inner(const void *eth, const void *end, __u32 length, struct inner *inner, enum reason *why)
{
	const struct ethhdr *header = eth;
	const void *l3 = eth + ETH_HLEN;

	if (l3 > end)
		return other(why, REASON_MALFORMED);
	switch (header->h_proto) {
	case __constant_htons(ETH_P_IP):
		return parse_inner_ipv4(l3, end, length - ETH_HLEN, inner, why);
	case __constant_htons(ETH_P_IPV6):
		return parse_inner_ipv6(l3, end, length - ETH_HLEN, inner, why);
	case __constant_htons(ETH_P_ARP):
		return parse_inner_arp(l3, end, inner, why);
	default:
		return other(why, REASON_NOT_IP);
	}
}

/* Say whether a question is asked by who it says it is; `source_known`: the port may use the IP. */
INLINE int
question_passes(const struct port_value *port, enum inner_kind kind, const void *l3, int source_known)
{
	const struct arp_packet *arp = l3;
	const struct nd_packet *nd = l3;
	__u32 sender;

	if (port->guard != GUARD_IP)
		return 1;
	if (kind == INNER_SOLICITATION)
		return source_known && same_mac(nd->mac, port->mac);
	__builtin_memcpy(&sender, arp->sender_ip, sizeof(sender));
	return same_mac(arp->sender_mac, port->mac) && (source_known || sender == 0); /* RFC 5227 */
}

/* Say whether every packet on the wire will be small enough; `gso_size`: payload of a segment. */
INLINE int
fits(const struct port_value *port, const struct inner *inner, __u32 length, __u32 gso_size)
{
	return (gso_size ? gso_size + inner->headers : length - ETH_HLEN) <= port->mtu;
}

/* The MAC in an EUI-64 link-local address (RFC 4291 appendix A); 0: it is none. */
INLINE int
mac_of_link_local(const __u8 *address, __u8 *mac)
{
	if (address[0] != 0xfe || address[1] != 0x80 || address[2] || address[3] || address[4] ||
	    address[5] || address[6] || address[7] || address[11] != 0xff || address[12] != 0xfe)
		return 0;
	mac[0] = address[8] ^ 2;
	mac[1] = address[9];
	mac[2] = address[10];
	mac[3] = address[13];
	mac[4] = address[14];
	mac[5] = address[15];
	return !is_group(mac);
}

INLINE void
swap_address(struct ethhdr *eth, const __u8 *mac)
{
	__builtin_memcpy(eth->h_dest, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, mac, ETH_ALEN);
}

/* Turn a question, which was parsed as one, into its answer: `mac` has that address. */
INLINE void
answer_arp(struct ethhdr *eth, const __u8 *mac)
{
	struct arp_packet *arp = (void *)(eth + 1);
	__u8 asked[4];

	swap_address(eth, mac);
	arp->operation = __constant_htons(ARP_REPLY);
	__builtin_memcpy(asked, arp->target_ip, 4);
	__builtin_memcpy(arp->target_mac, arp->sender_mac, ETH_ALEN);
	__builtin_memcpy(arp->target_ip, arp->sender_ip, 4);
	__builtin_memcpy(arp->sender_mac, mac, ETH_ALEN);
	__builtin_memcpy(arp->sender_ip, asked, 4);
}

/* What counts for the checksum but the checksum itself: addresses, and all of the message. */
INLINE __u32
sum_nd(const struct nd_packet *nd)
{
	return sum16(&nd->ip.saddr, 32) + sum16(&nd->type, 2) + sum16(&nd->flags, 28);
}

/* RFC 4861 section 7.2.4; RFC 1624: a checksum that was wrong stays wrong. */
INLINE void
answer_nd(struct ethhdr *eth, const __u8 *mac)
{
	struct nd_packet *nd = (void *)(eth + 1);
	__u32 sum = (__u16)~nd->checksum + ND_SUMMED_WORDS * 0xffff - sum_nd(nd);

	swap_address(eth, mac);
	__builtin_memcpy(&nd->ip.daddr, &nd->ip.saddr, 16);
	__builtin_memcpy(&nd->ip.saddr, nd->target, 16);
	nd->type = ND_ADVERTISEMENT;
	nd->flags = __constant_htonl(0x60000000); /* solicited, override */
	nd->option = ND_TARGET_OPTION;
	__builtin_memcpy(nd->mac, mac, ETH_ALEN);
	nd->checksum = ~fold(sum + sum_nd(nd));
}

/* --- what a pod sends --- */

INLINE enum verdict
because(struct decision *decision, enum verdict verdict, enum reason reason)
{
	decision->reason = reason;
	return verdict;
}

INLINE int
source_passes(const struct port_value *port, const struct inner *inner)
{
	int i;

	if (port->guard != GUARD_IP)
		return 1;
	for (i = 0; i < PORT_ADDRESSES && i < port->count; i++)
		if (same_address(port->addresses[i], inner->source))
			return 1;
	return 0;
}

/* Find who has the address that is asked for; 0: not known, or the asker itself, which may be probing. */
INLINE int
find_owner(const struct port_value *port, const struct inner *inner, __u8 *mac)
{
	struct neighbour_key asked = {.vni = port->vni};
	struct entry_key owner = {.vni = port->vni};
	const struct neighbour_value *neighbour;
	int is_link_local = mac_of_link_local(inner->target, owner.mac);

	if (is_link_local && same_mac(owner.mac, port->mac))
		return 0;
	__builtin_memcpy(asked.address, inner->target, 16);
	neighbour = find_neighbour(&asked);
	if (neighbour)
		__builtin_memcpy(mac, neighbour->mac, ETH_ALEN);
	else if (is_link_local && find_entry(&owner))
		__builtin_memcpy(mac, owner.mac, ETH_ALEN);
	else
		return 0;
	return !same_mac(mac, port->mac);
}

/* Say where a packet goes; `length`: of the frame, or of the whole super-packet. */
INLINE enum verdict
judge_packet(const struct port_value *port, __u32 ifindex, const struct ethhdr *eth, __u32 length,
	     __u32 gso_size, const struct inner *inner, struct decision *decision)
{
	struct entry_key key = {.vni = port->vni};
	struct entry_value *entry;

	__builtin_memcpy(key.mac, HALVES(eth->h_dest), ETH_ALEN);
	if (is_group(key.mac))
		return because(decision, VERDICT_OVS, REASON_GROUP);
	if (!source_passes(port, inner))
		return because(decision, VERDICT_OVS, REASON_GUARD);
	entry = find_entry(&key);
	/* A switch sends nothing back to where it came from (IEEE 802.1Q 8.6.1). */
	if (!entry || (entry->kind != ENTRY_REMOTE && entry->ifindex == ifindex))
		return because(decision, VERDICT_OVS, REASON_NO_ENTRY);
	if (!fits(port, inner, length, gso_size))
		return because(decision, VERDICT_DROP, REASON_TOO_LARGE);
	/* Lost behind the tunnel: what has UDP segments inside is not known for that any more. */
	if (gso_size && inner->protocol != IPPROTO_TCP)
		return because(decision, VERDICT_OVS, REASON_UDP_GSO);
	decision->entry = entry;
	return VERDICT_FORWARD;
}

/*
 * Say what becomes of the untagged frame in `eth`..`end`, of `length` bytes in all, that the pod behind
 * `port` sends; `inner` and `decision` are zeroed.
 */
INLINE enum verdict
judge_sent(const struct port_value *port, __u32 ifindex, const void *eth, const void *end, __u32 length,
	   __u32 gso_size, struct inner *inner, struct decision *decision)
{
	const struct ethhdr *header = eth;
	enum inner_kind kind;

	if ((const void *)(header + 1) > end)
		return because(decision, VERDICT_OVS, REASON_MALFORMED);
	if (port->guard != GUARD_OFF && !same_mac(header->h_source, port->mac))
		return because(decision, VERDICT_OVS, REASON_GUARD);
	kind = parse_inner(eth, end, length, inner, &decision->reason);
	if (kind == INNER_OTHER)
		return VERDICT_OVS;
	if (kind == INNER_IP)
		return judge_packet(port, ifindex, header, length, gso_size, inner, decision);
	if ((const void *)(header + 1) + sizeof(struct arp_packet) > end ||
	    (kind == INNER_SOLICITATION && (const void *)(header + 1) + sizeof(struct nd_packet) > end) ||
	    !question_passes(port, kind, header + 1, source_passes(port, inner)))
		return because(decision, VERDICT_OVS, REASON_GUARD);
	if (!find_owner(port, inner, decision->mac))
		return because(decision, VERDICT_OVS, kind == INNER_ARP_REQUEST ? REASON_ARP : REASON_ND);
	decision->reason = REASON_ANSWERED;
	return kind == INNER_ARP_REQUEST ? VERDICT_ANSWER_ARP : VERDICT_ANSWER_ND;
}

/* --- what comes from the wire --- */

INLINE int
is_plain(const struct tunnel_header *header, __u32 encap)
{
	return header->first == (encap == ENCAP_GENEVE ? GENEVE_FIRST : VXLAN_FIRST) &&
	       !(header->vni & __constant_htonl(0xff));
}

/* Say whether `outer` is what a peer's headers should be, around a frame of `length` bytes in all. */
INLINE int
is_sound(const struct outer *outer, const struct udphdr *udp, __u32 length)
{
	return !outer->has_fault && outer->bytes == length &&
	       outer->l4 + (__u32)__be16_to_cpu(udp->len) == length;
}

/* Say whether what is inside is long enough for an IP header: the kernel makes no packet of less. */
INLINE int
holds_ip(const struct outer *outer, const struct tunnelled *found, __u32 length)
{
	__u32 least = found->inner.h_proto == __constant_htons(ETH_P_IP) ? sizeof(struct iphdr)
									 : sizeof(struct ipv6hdr);

	return length >= outer->l4 + sizeof(*found) + least;
}

INLINE int
is_from_member(const struct outer *outer, const struct tunnelled *found, const struct own_value *socket)
{
	struct member_key member = {.vni = __be32_to_cpu(found->header.vni) >> 8, .encap = socket->encap};

	__builtin_memcpy(WORDS(member.vtep), WORDS(outer->from), 16);
	return has_member(&member);
}

INLINE enum verdict
refuse_stranger(const struct own_value *socket, struct decision *decision)
{
	return because(decision, socket->flags & OWN_EXCLUSIVE ? VERDICT_DROP : VERDICT_HOST,
		       REASON_UNKNOWN_VTEP);
}

/*
 * Say what becomes of what was sent to our `socket`, in a frame of `length` bytes; `is_summed`: its UDP
 * checksum is none, or known to be right.
 */
INLINE enum verdict
judge_received(const struct outer *outer, const struct tunnelled *found, const struct own_value *socket,
	       __u32 length, int is_summed, struct decision *decision)
{
	__u32 vni = __be32_to_cpu(found->header.vni) >> 8;
	struct entry_key key = {.vni = vni};
	struct entry_value *entry;

	if (!(socket->flags & OWN_FAST))
		return because(decision, VERDICT_OVS, REASON_POLICY_OFF);
	if (!is_from_member(outer, found, socket))
		return refuse_stranger(socket, decision);
	if (!is_sound(outer, &found->udp, length) || !is_plain(&found->header, socket->encap))
		return because(decision, VERDICT_OVS, REASON_MALFORMED);
	if (outer->ecn == ECN_CE) /* to be told to the inner packet, or a reason to drop it */
		return because(decision, VERDICT_OVS, REASON_ECN);
	__builtin_memcpy(key.mac, HALVES(found->inner.h_dest), ETH_ALEN);
	if (is_group(key.mac))
		return because(decision, VERDICT_OVS, REASON_GROUP);
	if (found->inner.h_proto != __constant_htons(ETH_P_IP) &&
	    found->inner.h_proto != __constant_htons(ETH_P_IPV6))
		return because(decision, VERDICT_OVS, REASON_NOT_IP);
	if (!holds_ip(outer, found, length))
		return because(decision, VERDICT_OVS, REASON_MALFORMED);
	entry = find_entry(&key);
	if (!entry || entry->kind == ENTRY_REMOTE) /* never from tunnel to tunnel */
		return because(decision, VERDICT_OVS, REASON_NO_ENTRY);
	if (!is_summed)
		return because(decision, VERDICT_OVS, REASON_CHECKSUM);
	decision->entry = entry;
	return VERDICT_FORWARD;
}

/* --- what comes from the wire, before there is a buffer --- */

/* Say whether no tunnel takes such a header: RFC 8926 section 3.4 and RFC 7348 section 5. */
INLINE int
is_nobodys(const struct tunnel_header *header, __u32 encap)
{
	if (encap == ENCAP_GENEVE)
		return header->first & __constant_htonl(0xc0000000); /* the version */
	return !(header->first & VXLAN_FIRST);
}

/* Bytes of a tunnel packet, from its UDP header on, that has the shortest frame in it. */
INLINE __u32
least_bytes(const struct tunnel_header *header, __u32 encap)
{
	__u32 words = encap == ENCAP_GENEVE ? __be32_to_cpu(header->first) >> 24 & 0x3f : 0;

	return sizeof(struct tunnelled) + 4 * words; /* with its options */
}

/*
 * Say whether the packet in `eth`..`end`, of `length` bytes in all, that was sent to our `socket` is
 * dropped at once: only what judge_received would leave to Open vSwitch or to the host, and they would
 * surely drop. VERDICT_HOST: it is not. Open vSwitch takes a wrong UDP length, and padding for a frame.
 * What a promiscuous `nic` receives for another MAC is for who listens there.
 */
INLINE enum verdict
judge_early(const void *eth, const void *end, __u32 length, const struct outer *outer,
	    const struct own_value *socket, const struct nic_value *nic, struct decision *decision)
{
	/* The sum of a header with options was not made. */
	int is_damaged = outer->has_fault && outer->l4 == ETH_HLEN + sizeof(struct iphdr);
	const struct tunnelled *found = eth + outer->l4;

	if (!(socket->flags & OWN_FAST) || !same_mac(((const struct ethhdr *)eth)->h_dest, nic->mac))
		return VERDICT_HOST;
	if (is_damaged || outer->bytes > length || outer->l4 + sizeof(*found) > length)
		return because(decision, VERDICT_DROP, REASON_DAMAGED);
	if ((const void *)(found + 1) > end)
		return VERDICT_HOST;
	if (!is_from_member(outer, found, socket))
		return refuse_stranger(socket, decision);
	if (is_nobodys(&found->header, socket->encap) ||
	    outer->l4 + least_bytes(&found->header, socket->encap) > length)
		return because(decision, VERDICT_DROP, REASON_DAMAGED);
	return VERDICT_HOST;
}

#endif
