/*
 * The tc programs of a node (clsact ingress, direct action), in bcc's dialect. Here they are only
 * the glue between netdevs; who may send what to whom is decided by Open vSwitch.
 *
 * Links of others (the NIC): what is not ours returns TC_ACT_UNSPEC, so that their filters run.
 * Links of ours: what has nowhere to go is dropped, so that a pod never reaches the host's stack.
 */
#include <linux/pkt_cls.h>

#include "maps.h"
#include "parse.h"

/* bcc 0.26 declares this helper with the three arguments of Linux 5.9; since 5.10 it has four. */
static long (*redirect_neigh)(u32 ifindex, void *nexthop, int nexthop_bytes, u64 flags) =
	(void *)BPF_FUNC_redirect_neigh;

static inline __attribute__((always_inline)) struct glue_value *
glued_to(struct __sk_buff *skb)
{
	u32 ifindex = skb->ifindex;

	return glue.lookup(&ifindex);
}

static inline __attribute__((always_inline)) int
hand_over(struct __sk_buff *skb)
{
	struct glue_value *to = glued_to(skb);

	return to ? bpf_redirect(to->ifindex, 0) : TC_ACT_SHOT;
}

static inline __attribute__((always_inline)) enum parsed
parse_linear(struct __sk_buff *skb, struct socket_key *to)
{
	return parse_udp((void *)(long)skb->data, (void *)(long)skb->data_end, skb->protocol, to);
}

/* A driver may leave the headers in a page: then they are pulled where they can be read, once. */
static inline __attribute__((always_inline)) int
is_udp(struct __sk_buff *skb, struct socket_key *to)
{
	enum parsed parsed = parse_linear(skb, to);

	if (parsed == PARSED_SHORT) {
		bpf_skb_pull_data(skb, skb->len < PARSE_BYTES ? skb->len : PARSE_BYTES);
		parsed = parse_linear(skb, to);
	}
	return parsed == PARSED_UDP;
}

/* vpN: what a pod sends goes into Open vSwitch. */
int access_port(struct __sk_buff *skb)
{
	return hand_over(skb);
}

/* otN: what Open vSwitch sends goes to the pod. */
int ovs_port(struct __sk_buff *skb)
{
	return hand_over(skb);
}

/*
 * NIC: tunnel packets that the host's stack would take for its own go into Open vSwitch. A tagged
 * frame is for a VLAN device above the NIC: its tag is in vlan_present, no more in the frame.
 */
int underlay(struct __sk_buff *skb)
{
	struct socket_key socket = {};
	struct glue_value *to;

	if (skb->pkt_type != PACKET_HOST || skb->vlan_present || !is_udp(skb, &socket) ||
	    !own.lookup(&socket))
		return TC_ACT_UNSPEC;
	to = glued_to(skb);
	return to ? bpf_redirect(to->ifindex, 0) : TC_ACT_UNSPEC;
}

/* ophy0: tunnel packets of Open vSwitch; the kernel finds next hop and neighbour on the NIC. */
int ophy(struct __sk_buff *skb)
{
	struct glue_value *to = glued_to(skb);

	if (!to || skb->vlan_present ||
	    (skb->protocol != __constant_htons(ETH_P_IP) &&
	     skb->protocol != __constant_htons(ETH_P_IPV6)))
		return TC_ACT_SHOT;
	return redirect_neigh(to->ifindex, NULL, 0, 0);
}
