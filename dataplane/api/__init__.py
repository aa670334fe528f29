"""overweave.v1: the agent's own gRPC service and its client."""
