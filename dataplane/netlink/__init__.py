"""rtnetlink and network namespaces: the only code that speaks AF_NETLINK or calls setns."""
