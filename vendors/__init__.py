"""Switches of DPUs, one driver a vendor, behind one contract."""
