"""The mini contest: generated programming problems that a tiny model can learn from nothing on a
CPU.

`python -m rlef_jax.datasets.mini_contest --seed=1 --level=hard` builds it with other settings.
Importing this package does not import tensorflow_datasets; `rlef_jax.datasets.mini_contest.builder`
does.
"""
