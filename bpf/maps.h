/*
 * The maps, pinned in bpffs and filled by the agent. bpf/layout.py is their other half: it sizes and
 * creates them, and the loader hands its sizes in as macros, so that a difference does not compile.
 */
#ifndef OVERWEAVE_MAPS_H
#define OVERWEAVE_MAPS_H

#include "encap.h"

#define MAP(kind, key_type, value_type, name, NAME)                                                 \
	_Static_assert(sizeof(key_type) == NAME##_KEY_SIZE, "bpf/layout.py: key of " #name);        \
	_Static_assert(sizeof(value_type) == NAME##_VALUE_SIZE, "bpf/layout.py: value of " #name);  \
	BPF_TABLE_PINNED(kind, key_type, value_type, name, NAME##_ENTRIES, MAPS_DIRECTORY "/" #name, \
			 NAME##_FLAGS)

/* ifindex of a netdev -> the netdev that what it receives goes to, unless the fast path takes it. */
struct glue_value {
	u32 ifindex; /* host order */
};
MAP("hash", u32, struct glue_value, glue, GLUE);

/* The UDP sockets that tunnel packets for this node are sent to. */
MAP("hash", struct socket_key, struct own_value, own, OWN);

/* ifindex of an underlay NIC -> its MAC; none: its driver drops nothing. */
MAP("hash", u32, struct nic_value, nics, NICS);

/* ifindex of an AccessPort -> what it may send where; none: all of it goes to Open vSwitch. */
MAP("hash", u32, struct port_value, ports, PORTS);

/* Who has an address: what questions are answered with. */
MAP("hash", struct neighbour_key, struct neighbour_value, neighbours, NEIGHBOURS);

/* Where a MAC is. */
MAP("hash", struct entry_key, struct entry_value, entries, ENTRIES);

/* The VTEPs that may send frames of a segment; the value says nothing. */
MAP("hash", struct member_key, u32, members, MEMBERS);

/* Packets that the fast path did not take, or answered, by the netdev that received them. */
struct counter_key {
	u32 ifindex;
	u32 reason;
};
MAP("percpu_hash", struct counter_key, u64, counters, COUNTERS);

#endif
