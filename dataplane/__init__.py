"""The Overweave agent: pure core, thin adapters, and the wiring that joins them."""
