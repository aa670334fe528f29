"""Which port of the datapath is whose, from what dpif/show prints."""

from overlay_ovs.packet_path import _datapath_ports, _tunnels

SHOWN = """\
netdev@ovs-netdev: hit:9 missed:3
  br-phy:
    br-phy 65534/1: (tap)
    fphy0 1/2: (tap)
system@ovs-system: hit:31 missed:8
  br-int:
    br-int 65534/5: (internal)
    ovn-1 1/6: (geneve: remote_ip=192.0.2.9)
  ow-int:
    ot1 100/1: (internal)
    ow-geneve 1/2: (geneve: key=flow, local_ip=flow, remote_ip=flow)
    ow-int 65534/3: (internal)
"""


def test_numbers_are_those_of_our_datapath() -> None:
    names = dict(_datapath_ports(SHOWN))
    assert names == {"1": "ot1", "2": "ow-geneve", "3": "ow-int"}
    assert _tunnels(names) == {"2": "geneve"}
