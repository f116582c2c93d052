"""The mock world: a registry and aggregator BPPs as real processes."""
