"""Lets jax take nearly all of a GPU's memory, where the user has not said how much."""

import os

# Of the driver's figure; jax takes 0.75 by itself. What is left holds CUDA's own context, its
# libraries, and the buffers of the links between GPUs.
SHARE = 0.95
_VARIABLES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")


def take() -> None:
    """Sets the share in the environment; commands call it before jax first looks for devices."""
    if not any(os.environ.get(name) for name in _VARIABLES):
        os.environ[_VARIABLES[1]] = str(SHARE)
