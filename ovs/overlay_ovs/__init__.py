"""Open vSwitch as the overlay's complete truth: its ports, flows, tunnels and restarts."""
