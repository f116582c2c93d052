"""Readings and the rolling window of each feeder."""
