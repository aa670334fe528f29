"""OPI's services on this node: what an operator's daemon asks of a vendor's plugin."""
