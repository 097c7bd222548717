"""The settings of a run: their defaults, the checks of them, and the command line."""

from rlef_jax.config.defaults import (
    CHOICES,
    default,
    field_names,
    leaves,
    most_turns,
    stream_capacity,
    suggestion,
)

__all__ = [
    "CHOICES",
    "default",
    "field_names",
    "leaves",
    "most_turns",
    "stream_capacity",
    "suggestion",
]
