"""Reports on a run: its page, its episodes as JSON lines, and its solve rates before and after."""

from rlef_jax.report.before_after import percent, print_table, write_figure
from rlef_jax.report.episodes import keeping_episodes, read_episodes, write_episodes
from rlef_jax.report.page import write

__all__ = [
    "keeping_episodes",
    "percent",
    "print_table",
    "read_episodes",
    "write",
    "write_episodes",
    "write_figure",
]
