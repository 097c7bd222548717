"""Builds the mini contest with another seed, other sizes or another level, and says where it is."""

from absl import app, flags

from rlef_jax.datasets.mini_contest import builder
from rlef_jax.datasets.mini_contest.families import LEVELS

_DEFAULTS = builder.MiniContestConfig()

_DATA_DIR = flags.DEFINE_string("data_dir", "data", "Folder that the data set is written under.")
_OPTIONS = (
    flags.DEFINE_integer("seed", _DEFAULTS.seed, "Seed of the problems.", lower_bound=0),
    flags.DEFINE_integer("train", _DEFAULTS.train, "Number of training problems.", lower_bound=1),
    flags.DEFINE_integer("valid", _DEFAULTS.valid, "Number of validation problems.", lower_bound=1),
    flags.DEFINE_integer("test", _DEFAULTS.test, "Number of test problems.", lower_bound=1),
    flags.DEFINE_integer(
        "transfer",
        _DEFAULTS.transfer,
        "Number of problems of a family never trained on.",
        lower_bound=1,
    ),
    flags.DEFINE_enum("level", _DEFAULTS.level, list(LEVELS), "Difficulty."),
    flags.DEFINE_bool("example", _DEFAULTS.example, "Show the first public test in the statement."),
)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}: all settings are flags")
    built = builder.prepared(_DATA_DIR.value, **{holder.name: holder.value for holder in _OPTIONS})
    sizes = ", ".join(f"{name} {info.num_examples}" for name, info in built.info.splits.items())
    print(f"{built.data_path}: {sizes}")


if __name__ == "__main__":
    app.run(main)
