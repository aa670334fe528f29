"""Switches of DPUs for labs and tests: real protocols and real frames, without the hardware."""
