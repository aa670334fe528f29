/*
 * The maps, pinned in bpffs and filled by the agent. bpf/layout.py is their other half: it sizes and
 * creates them, and the loader hands its sizes in as macros, so that a difference does not compile.
 */
#ifndef OVERWEAVE_MAPS_H
#define OVERWEAVE_MAPS_H

#include "parse.h"

/* ifindex of a netdev -> the netdev that what it receives goes to. */
struct glue_value {
	u32 ifindex; /* host order */
};
_Static_assert(sizeof(u32) == GLUE_KEY_SIZE, "bpf/layout.py: key of glue");
_Static_assert(sizeof(struct glue_value) == GLUE_VALUE_SIZE, "bpf/layout.py: value of glue");
BPF_TABLE_PINNED("hash", u32, struct glue_value, glue, GLUE_ENTRIES, MAPS_DIRECTORY "/glue", GLUE_FLAGS);

/* The UDP sockets that tunnel packets for this node are sent to. */
struct own_value {
	u32 encap; /* host order; 1 Geneve, 2 VXLAN */
};
_Static_assert(sizeof(struct socket_key) == OWN_KEY_SIZE, "bpf/layout.py: key of own");
_Static_assert(sizeof(struct own_value) == OWN_VALUE_SIZE, "bpf/layout.py: value of own");
BPF_TABLE_PINNED("hash", struct socket_key, struct own_value, own, OWN_ENTRIES, MAPS_DIRECTORY "/own", OWN_FLAGS);

#endif
