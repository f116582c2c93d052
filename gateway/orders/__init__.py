"""The order life cycle: a pure transition function and the engine that drives it."""
