"""Pure decisions of the agent: standard library only; no socket, file, clock or thread."""
