"""How well a run fills in: one declared protocol, the same for every method and reference."""
