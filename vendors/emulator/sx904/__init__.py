"""The emulated switch of a Senao SX904."""
