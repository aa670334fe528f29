"""Transport to Open vSwitch: OVSDB of any schema, OpenFlow bundles, unixctl, and its daemons."""
