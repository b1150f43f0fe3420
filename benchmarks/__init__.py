"""Benchmarks: `python -m benchmarks.run` measures what the documentation claims, against other caches, in one run."""
