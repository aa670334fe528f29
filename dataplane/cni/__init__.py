"""The CNI plugin: a tiny shim that runtimes execute, and the agent's side of it."""
