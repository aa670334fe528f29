"""The node's and the pods' netdevs: veth pairs, their addresses, and the links of the underlay."""
