"""The commands of `python -m executor`: run, doctor and bench."""
