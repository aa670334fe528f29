/*
 * The tc programs of a node (clsact ingress, direct action) and its XDP program, in bcc's dialect: they
 * look things up, do what verdict.h and encap.h say, and count. What the fast path does not take goes to
 * Open vSwitch.
 *
 * Links of others (the NIC): what is not ours returns TC_ACT_UNSPEC, so that their filters run.
 * Links of ours: what has nowhere to go is dropped, so that a pod never reaches the host's stack.
 */
#include <linux/pkt_cls.h>

#include "maps.h"

#define ENCAP_FLAGS                                                                                 \
	(BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L4_UDP | BPF_F_ADJ_ROOM_NO_CSUM_RESET |    \
	 BPF_F_ADJ_ROOM_ENCAP_L2(ETH_HLEN) | BPF_F_ADJ_ROOM_ENCAP_L2_ETH)

/* Bytes that an IPv6 header is longer than one of IPv4. */
#define IPV6_MORE ((s32)(sizeof(struct ipv6hdr) - sizeof(struct iphdr)))

/* bcc 0.26 declares this helper with the three arguments of Linux 5.9; since 5.10 it has four. */
static long (*redirect_neigh)(u32 ifindex, void *nexthop, int nexthop_bytes, u64 flags) =
	(void *)BPF_FUNC_redirect_neigh;

INLINE void
count(u32 ifindex, enum reason reason)
{
	struct counter_key key = {.ifindex = ifindex, .reason = reason};
	u64 one = 1, *packets = counters.lookup(&key);

	if (packets)
		*packets += 1;
	else
		counters.update(&key, &one);
}

INLINE void
use(struct entry_value *entry, struct __sk_buff *skb)
{
	__sync_fetch_and_add(&entry->packets, skb->gso_segs > 1 ? skb->gso_segs : 1);
	__sync_fetch_and_add(&entry->bytes, skb->len);
}

INLINE int
hand_over(u32 ifindex)
{
	struct glue_value *to = glue.lookup(&ifindex);

	return to ? bpf_redirect(to->ifindex, 0) : TC_ACT_SHOT;
}

INLINE int
to_ovs(u32 ifindex, enum reason reason)
{
	count(ifindex, reason);
	return hand_over(ifindex);
}

INLINE int
drop(u32 ifindex, enum reason reason)
{
	count(ifindex, reason);
	return TC_ACT_SHOT;
}

/* A driver may leave the headers in a page: then they are pulled where they can be read. */
INLINE void
pull(struct __sk_buff *skb, u32 bytes)
{
	if (bytes > skb->len)
		bytes = skb->len;
	if ((void *)(long)skb->data + bytes > (void *)(long)skb->data_end)
		bpf_skb_pull_data(skb, bytes);
}

/* --- what verdict.h looks up --- */

INLINE struct neighbour_value *
find_neighbour(const struct neighbour_key *key)
{
	return neighbours.lookup((struct neighbour_key *)key);
}

INLINE struct entry_value *
find_entry(const struct entry_key *key)
{
	return entries.lookup((struct entry_key *)key);
}

INLINE int
has_member(const struct member_key *key)
{
	return members.lookup((struct member_key *)key) != NULL;
}

/* --- what a pod sends --- */

INLINE int
answer(struct __sk_buff *skb, u32 ifindex, enum verdict verdict, const u8 *mac)
{
	void *eth = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	if (verdict == VERDICT_ANSWER_ARP) {
		if (eth + ETH_HLEN + sizeof(struct arp_packet) > end)
			return to_ovs(ifindex, REASON_ARP);
		answer_arp(eth, mac);
	} else {
		if (eth + ETH_HLEN + sizeof(struct nd_packet) > end)
			return to_ovs(ifindex, REASON_ND);
		answer_nd(eth, mac);
	}
	count(ifindex, REASON_ANSWERED);
	return bpf_redirect(ifindex, 0);
}

INLINE int
encapsulate(struct __sk_buff *skb, u32 ifindex, struct entry_value *entry, u32 vni, u8 ecn)
{
	struct payload payload = {.bytes = skb->len - ETH_HLEN, .vni = vni, .ecn = ecn};
	u64 family = is_mapped_ipv4(entry->remote) ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV4
						   : BPF_F_ADJ_ROOM_ENCAP_L3_IPV6;
	struct ethhdr *eth = (void *)(long)skb->data;
	u32 room = outer_bytes(entry);

	if ((void *)(eth + 1) > (void *)(long)skb->data_end)
		return to_ovs(ifindex, REASON_MALFORMED);
	copy_eth(&payload.eth, eth);
	payload.hash = bpf_get_hash_recalc(skb);
	if (payload.bytes + room > 0xffff)
		return to_ovs(ifindex, REASON_TOO_LARGE);
	/* Refused for what was encapsulated before: a pod that routes or bridges what it received. */
	if (bpf_skb_adjust_room(skb, room, BPF_ADJ_ROOM_MAC, ENCAP_FLAGS | family))
		return to_ovs(ifindex, REASON_NESTED);
	if (!write_outer((void *)(long)skb->data, (void *)(long)skb->data_end, entry, &payload))
		return drop(ifindex, REASON_KERNEL); /* never: it leaves what it made room for readable */
	use(entry, skb);
	return redirect_neigh(entry->ifindex, NULL, 0, 0);
}

INLINE int
deliver(struct __sk_buff *skb, struct entry_value *entry)
{
	use(entry, skb);
	/* redirect_peer would deliver nothing to what is no veth */
	return entry->kind == ENTRY_VETH ? bpf_redirect_peer(entry->ifindex, 0)
					 : bpf_redirect(entry->ifindex, 0);
}

/* vpN: what the fast path knows goes there, everything else into Open vSwitch. */
int access_port(struct __sk_buff *skb)
{
	u32 ifindex = skb->ifindex;
	struct port_value *port = ports.lookup(&ifindex);
	struct decision decision = {};
	struct inner inner = {};
	enum verdict verdict;

	if (!port)
		return hand_over(ifindex);
	if (skb->vlan_present)
		return to_ovs(ifindex, REASON_NOT_IP);
	pull(skb, bytes_read(skb->protocol));
	verdict = judge_sent(port, ifindex, (void *)(long)skb->data, (void *)(long)skb->data_end,
			     skb->len, skb->gso_size, &inner, &decision);
	switch (verdict) {
	case VERDICT_FORWARD:
		if (decision.entry->kind != ENTRY_REMOTE)
			return deliver(skb, decision.entry);
		return encapsulate(skb, ifindex, decision.entry, port->vni, inner.ecn);
	case VERDICT_ANSWER_ARP:
	case VERDICT_ANSWER_ND:
		return answer(skb, ifindex, verdict, decision.mac);
	case VERDICT_DROP:
		return drop(ifindex, decision.reason);
	default:
		return to_ovs(ifindex, decision.reason);
	}
}

/* otN: what Open vSwitch sends goes to the pod. */
int ovs_port(struct __sk_buff *skb)
{
	return hand_over(skb->ifindex);
}

/* --- what comes from the wire --- */

INLINE enum parsed
parse_linear(struct __sk_buff *skb, struct outer *outer)
{
	return parse_udp((void *)(long)skb->data, (void *)(long)skb->data_end, skb->protocol, outer);
}

INLINE int
is_udp(struct __sk_buff *skb, struct outer *outer)
{
	enum parsed parsed = parse_linear(skb, outer);

	if (parsed == PARSED_SHORT) {
		pull(skb, PARSE_BYTES);
		parsed = parse_linear(skb, outer);
	}
	return parsed == PARSED_UDP;
}

/* Without Open vSwitch the host may say that nobody listens. */
INLINE int
nic_to_ovs(u32 ifindex, enum reason reason)
{
	struct glue_value *to = glue.lookup(&ifindex);

	count(ifindex, reason);
	return to ? bpf_redirect(to->ifindex, 0) : TC_ACT_UNSPEC;
}

/*
 * Where the inner family is another, first make the packet one of it: that moves its start by what an
 * IPv6 header is longer. adjust_room has a flag for this since Linux 6.3; this is possible since 4.8.
 */
INLINE int
decapsulate(struct __sk_buff *skb, u32 ifindex, u32 l4, const struct ethhdr *inner,
	    struct entry_value *entry)
{
	s32 room = l4 + sizeof(struct tunnelled) - ETH_HLEN;
	u16 protocol = inner->h_proto;
	struct ethhdr *eth;

	if (skb->protocol != protocol) {
		if (bpf_skb_change_proto(skb, protocol, 0))
			return nic_to_ovs(ifindex, REASON_KERNEL);
		room += protocol == __constant_htons(ETH_P_IPV6) ? IPV6_MORE : -IPV6_MORE;
		if (bpf_skb_adjust_room(skb, -room, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
			return drop(ifindex, REASON_KERNEL); /* no memory, and no more what came */
	} else if (bpf_skb_adjust_room(skb, -room, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO)) {
		return nic_to_ovs(ifindex, REASON_KERNEL);
	}
	eth = (void *)(long)skb->data;
	if ((void *)(eth + 1) > (void *)(long)skb->data_end)
		return drop(ifindex, REASON_KERNEL);
	copy_eth(eth, inner);
	return deliver(skb, entry);
}

/* Say whether the UDP checksum is none (RFC 6935), or was found right by the NIC. */
INLINE int
is_summed(struct __sk_buff *skb, const struct udphdr *udp)
{
	return !udp->check || bpf_csum_level(skb, BPF_CSUM_LEVEL_QUERY) >= 0;
}

INLINE int
take_in(struct __sk_buff *skb, u32 ifindex, struct outer *outer, struct own_value *socket)
{
	struct decision decision = {};
	struct tunnelled *found;
	struct ethhdr inner ALIGNED;
	u32 l4 = outer->l4 & 0x7f; /* at most 74, which the verifier does not see */

	pull(skb, l4 + sizeof(*found));
	found = (void *)(long)skb->data + l4;
	if ((void *)(found + 1) > (void *)(long)skb->data_end)
		return nic_to_ovs(ifindex, REASON_MALFORMED);
	copy_eth(&inner, &found->inner);
	switch (judge_received(outer, found, socket, skb->len, is_summed(skb, &found->udp),
			       &decision)) {
	case VERDICT_FORWARD:
		return decapsulate(skb, ifindex, l4, &inner, decision.entry);
	case VERDICT_DROP:
		return drop(ifindex, decision.reason);
	case VERDICT_HOST:
		count(ifindex, decision.reason);
		return TC_ACT_UNSPEC;
	default:
		return nic_to_ovs(ifindex, decision.reason);
	}
}

/*
 * NIC: tunnel packets that the host's stack would take for its own. A tagged frame is for a VLAN
 * device above the NIC: its tag is in vlan_present, no more in the frame.
 */
int underlay(struct __sk_buff *skb)
{
	struct outer outer = {};
	struct own_value *socket;
	u32 ifindex = skb->ifindex;

	if (skb->pkt_type != PACKET_HOST || skb->vlan_present || !is_udp(skb, &outer))
		return TC_ACT_UNSPEC;
	socket = own.lookup(&outer.to);
	if (!socket)
		return TC_ACT_UNSPEC;
	return take_in(skb, ifindex, &outer, socket);
}

/*
 * NIC, in its driver: a packet that would be dropped later is dropped before there is a buffer. One whose
 * headers go on in another page is passed on.
 */
int overweave_xdp(struct xdp_md *ctx)
{
	void *eth = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	u32 ifindex = ctx->ingress_ifindex;
	struct decision decision = {};
	struct outer outer = {};
	struct own_value *socket;
	struct nic_value *nic;

	if (eth + ETH_HLEN > end ||
	    parse_udp(eth, end, ((struct ethhdr *)eth)->h_proto, &outer) != PARSED_UDP)
		return XDP_PASS;
	socket = own.lookup(&outer.to);
	nic = socket ? nics.lookup(&ifindex) : NULL;
	if (!nic || outer.l4 > PARSE_BYTES ||
	    judge_early(eth, end, end - eth, &outer, socket, nic, &decision) != VERDICT_DROP)
		return XDP_PASS;
	count(ifindex, decision.reason);
	return XDP_DROP;
}

/* ophy0: tunnel packets of Open vSwitch; the kernel finds next hop and neighbour on the NIC. */
int ophy(struct __sk_buff *skb)
{
	u32 ifindex = skb->ifindex;
	struct glue_value *to = glue.lookup(&ifindex);

	if (!to || skb->vlan_present ||
	    (skb->protocol != __constant_htons(ETH_P_IP) &&
	     skb->protocol != __constant_htons(ETH_P_IPV6)))
		return TC_ACT_SHOT;
	return redirect_neigh(to->ifindex, NULL, 0, 0);
}
