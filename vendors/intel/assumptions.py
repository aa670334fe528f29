"""What no document says of an E2100, and is taken to be so; the documents say where."""

from __future__ import annotations

from dataplane.core.capability import Assumption, Use

ASSUMPTIONS = (
    Assumption(
        "card-serial", Use.DISCOVERY, "VPD's SN and the Device Serial Number are the card's"
    ),
    Assumption("dmi-serial", Use.DISCOVERY, "on itself, DMI's product serial is the card's"),
    Assumption("unknown-ipu", Use.DISCOVERY, "another IPU Adapter in DMI is one we do not know"),
    Assumption("port-order", Use.DISCOVERY, "the number of a port of the Arm cores is dev_port"),
    Assumption("answers-in-time", Use.DEVICE, "it answers Capabilities within 0.7 s at all times"),
    Assumption("own-role", Use.DEVICE, "a client may have a role, and read and write all in it"),
    Assumption("misses", Use.PORTS, "a miss gets to the representor or cpu0 as it came"),
    Assumption("arp-misses", Use.PORTS, "ARP is a miss, from VFs and from the wire"),
    Assumption("default-parameters", Use.PORTS, "what a const default action is given is 0"),
    Assumption("representor-miss", Use.PORTS, "without a row in tx_acc_vsi nothing is forwarded"),
    Assumption("tx-order", Use.ENTRIES, "tables are asked in this order where the guide is silent"),
    Assumption("tx-miss", Use.ENTRIES, "a MAC that l2_fwd_tx_table does not have is a miss"),
    Assumption("recirculation", Use.ENTRIES, "a MAC behind no VTEP goes on to the next table"),
    Assumption("vf-to-vf", Use.ENTRIES, "between two VFs no further table is asked"),
    Assumption("group-address", Use.ENTRIES, "a group address is looked up as any other"),
    Assumption("tag-vid", Use.ENTRIES, "vid is that of the first tag, inside a tunnel the inner's"),
    Assumption("counters", Use.ENTRIES, "a row counts what it forwards, and on when written again"),
    Assumption("row-metadata", Use.ENTRIES, "the metadata of a row is not given back"),
    Assumption("fixed-udp-ports", Use.TUNNELS, "tunnels are on UDP ports 4789 and 6081 alone"),
    Assumption(
        "tunnel-parser", Use.TUNNELS, "what is damaged, or has options, is no tunnel packet"
    ),
    Assumption("mac-part-order", Use.TUNNELS, "the parts of a MAC are in the order of their names"),
    Assumption("underlay-miss", Use.TUNNELS, "without route or next hop it is a miss"),
    Assumption("router-interface", Use.TUNNELS, "11 bits of it choose the source MAC, else kept"),
    Assumption("tunnel-pointer", Use.TUNNELS, "the tunnel id, extended by zeros, chooses headers"),
    Assumption("missing-headers", Use.TUNNELS, "without a row that rewrites it goes out as it was"),
    Assumption("termination-miss", Use.TUNNELS, "an unknown VTEP, VNI or encapsulation is a miss"),
    Assumption(
        "source-port-of-tunnels", Use.TUNNELS, "it is set where a tunnel ends, and only there"
    ),
    Assumption("no-wire-to-wire", Use.TUNNELS, "what came in from the wire never goes out there"),
    Assumption("any-source-port", Use.TUNNELS, "an outer UDP source port is written as given"),
    Assumption("outer-ethertype", Use.TUNNELS, "the outer type is that of the outer IP version"),
    Assumption("outer-udp-checksum", Use.TUNNELS, "the outer UDP checksum is 0, over IPv6, too"),
    Assumption("inner-tos", Use.TUNNELS, "ECN and DSCP are not copied from the frame inside"),
    Assumption("outer-ecn", Use.TUNNELS, "congestion on the way is not told to the frame inside"),
    Assumption("frame-size", Use.TUNNELS, "what is too large for the underlay leaves all the same"),
    Assumption("geneve-header", Use.GENEVE, "version 0, no options, protocol 0x6558, and the VNI"),
    Assumption("vxlan-header", Use.VXLAN, "flags 0x08, the VNI, and zeros"),
    Assumption("outer-ipv4", Use.IPV4, "an outer IPv4 header has TOS 0, id 0, DF set and TTL 64"),
    Assumption(
        "plugin-ipv6-root", Use.IPV6, "Intel's plugin makes IPv6 routes start at root 0, too"
    ),
)
