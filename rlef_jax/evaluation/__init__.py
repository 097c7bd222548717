"""Evaluations: solve rates with intervals, what is evaluated, results on disk, and tables."""
