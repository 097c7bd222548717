"""What remains of a run: episodes as JSON lines, their viewer, the figure, and the table at the
end.
"""

from rlef_jax.report.before_after import figure, table
from rlef_jax.report.episodes import read_episodes, write_episodes
from rlef_jax.report.page import write

__all__ = ["figure", "read_episodes", "table", "write", "write_episodes"]
