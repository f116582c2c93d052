"""A mock aggregator: a Beckn seller (BPP) with its own keys, storage, portfolio and physics."""
