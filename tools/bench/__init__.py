"""Benchmarks: ratios against a peer in the same run. ``make bench`` runs them all; none is part of the tests."""
