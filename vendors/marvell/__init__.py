"""Marvell Octeon 10: its switch is the DPU's own Open vSwitch."""
