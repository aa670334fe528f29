/*
 * Compiled by bpf/loader.py instead of overlay.c, behind definitions of TARGET, VNI_AT, STRANGE_VNI and
 * FORGED_PERCENT, and run by bench/flood.c: the frame that it is given leaves by the netdev TARGET, many
 * times, and so many of them with a VNI that nobody has. The other end of that veth receives them as a
 * driver does from its wire: in pages that are no buffer of the kernel yet.
 */
#include <linux/pkt_cls.h>

int overweave_xdp(struct xdp_md *ctx)
{
	u8 *vni = (void *)(long)ctx->data + VNI_AT;
	u32 is_forged = bpf_get_prandom_u32() % 100 < FORGED_PERCENT, number = is_forged ? STRANGE_VNI : VNI;

	if ((void *)(vni + 3) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	vni[0] = number >> 16; /* the page may be one that went before */
	vni[1] = number >> 8;
	vni[2] = number;
	return bpf_redirect(TARGET, 0);
}

/* The loader pins four more. */
int access_port(struct __sk_buff *skb)
{
	return TC_ACT_OK;
}

int ovs_port(struct __sk_buff *skb)
{
	return TC_ACT_OK;
}

int underlay(struct __sk_buff *skb)
{
	return TC_ACT_OK;
}

int ophy(struct __sk_buff *skb)
{
	return TC_ACT_OK;
}
