"""The switch of an Intel IPU E2100, emulated: a P4Runtime server whose tables forward frames."""
