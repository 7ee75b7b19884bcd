"""Benchmarks: ratios measured in one run, each in a process of its own.  `python -m tests.bench [NAME ...]`."""
