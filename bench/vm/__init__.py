"""A virtual machine with Debian's stock kernel, for figures and tests that need one."""
