/*
 * Appended by bench/one_packet.py to a copy of bpf/overlay.c whose programs for pod and NIC are
 * functions here, pod_sends and nic_receives. So one program encapsulates a packet and decapsulates
 * it again, which BPF_PROG_TEST_RUN can then repeat: the packet ends as it began.
 */

/* Make what is sent to the peer what comes from it: for the host, and of the segment next to it. */
INLINE int
turn_back(struct __sk_buff *skb)
{
	u32 tunnel = ETH_HLEN + sizeof(struct udphdr) +
		     (skb->protocol == __constant_htons(ETH_P_IP) ? sizeof(struct iphdr)
								  : sizeof(struct ipv6hdr));
	struct tunnel_header *header = (void *)(long)skb->data + tunnel;

	if ((void *)(header + 1) > (void *)(long)skb->data_end)
		return 0;
	header->vni ^= __constant_htonl(1 << 8);
	return !bpf_skb_change_type(skb, PACKET_HOST);
}

INLINE int
there_and_back(struct __sk_buff *skb)
{
	if (pod_sends(skb) != TC_ACT_REDIRECT || !turn_back(skb))
		return TC_ACT_SHOT;
	return nic_receives(skb);
}

/* Every packet to the same MAC. */
int access_port(struct __sk_buff *skb)
{
	return there_and_back(skb);
}

/* Every packet to another of the MACs 02:...:00:00 to DESTINATIONS - 1, by chance. */
int underlay(struct __sk_buff *skb)
{
	u32 number = bpf_get_prandom_u32() % DESTINATIONS;
	u8 *mac = (void *)(long)skb->data;

	if ((void *)(mac + ETH_ALEN) > (void *)(long)skb->data_end)
		return TC_ACT_SHOT;
	mac[3] = number >> 16;
	mac[4] = number >> 8;
	mac[5] = number;
	return there_and_back(skb);
}
