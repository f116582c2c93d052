"""From forecast to need, plan and delivered volume: pure functions."""
