"""Measurements: `python -m benchmarks.NAME [--quick]` prints one JSON object, progress on standard error."""
