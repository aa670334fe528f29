"""The tc programs that join pods, Open vSwitch and the underlay NIC, and what loads them."""
