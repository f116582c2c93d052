"""Benchmarks: each measures our code and a stated reference in the same run and reports their ratio."""
