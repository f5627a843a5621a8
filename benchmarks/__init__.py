"""Measurements; each file says its question and its regime. Run as `python -m benchmarks.NAME`."""
