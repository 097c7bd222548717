"""Names every file of a run's directory, and says whose the directory is."""

import json
import os

from rlef_jax.runtime import files

# Settings that change speed or upkeep but not what a run computes: it may go on with others.
_FREE = (
    "mesh",
    "executor",
    "checkpoint",
    "episodes_every",
    "eval.before",
    "sampler.slots",
    "sampler.chunk",
    "sampler.splice_length",
    "sampler.share",
    "sampler.gather_weights",
)


class Workdir:
    """The paths of a run's directory. Nothing is made or read until it is asked for."""

    def __init__(self, path: str):
        self.path = path
        self.lock = self.at("lock")  # held by the process that runs here
        self.config = self.at("config.json")  # the settings of the run
        self.model = self.at("model.json")  # the shape of the model that is trained
        self.data = self.at("data")  # data sets, where data.dir names no other folder
        self.tokenizer = self.at("tokenizer.model")  # the trained one
        self.demonstrations = self.at("demonstrations.npz")  # what the warm start learns from
        self.metrics = self.at("metrics.jsonl")
        self.tensorboard = self.at("tensorboard")
        self.summary = self.at("summary.json")
        self.report = self.at("report.html")
        self.figure = self.at("figure.png")

    def at(self, *names: str) -> str:
        return os.path.join(self.path, *names)

    def phase(self, name: str) -> str:
        """Seconds and recompilations of a phase."""
        return self.at("phases", f"{name}.json")

    def evaluation(self, when: str) -> str:
        """Figures on the held-out split, 'before' or 'after'."""
        return self.at("evaluations", f"{when}.json")

    def rollouts(self, name: str) -> str:
        """What became of each rollout of an evaluation, such as 'before_T0.2', as they end."""
        return self.at("evaluations", f"{name}.jsonl")

    def conversations(self, name: str) -> str:
        """The episodes of an evaluation that is under way, as they end."""
        return self.at("evaluations", f"{name}_episodes.jsonl")

    def episodes(self, name: str) -> str:
        """Sampled conversations of one collection or evaluation."""
        return self.at("episodes", f"{name}.jsonl.gz")

    def checkpoints(self, phase: str) -> str:
        """The folder of 'sft', 'rlef' or 'best'."""
        return self.at("checkpoints", phase)

    def phases(self) -> dict[str, dict]:
        """{'seconds', 'recompilations'} of every phase so far, by name."""
        folder = self.at("phases")
        names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        names = [name.removesuffix(".json") for name in names if name.endswith(".json")]
        return {name: files.read_json(self.phase(name)) for name in names}

    def claim(self, config) -> None:
        """Writes config.json; raises ValueError where there is a run of another configuration.

        A run that stopped during its preparations is overwritten.
        """
        prepared = os.path.exists(self.phase("prepare"))
        settings = json.loads(config.to_json())
        if not prepared and os.path.exists(self.config):
            if files.first_difference(files.read_json(self.config), settings, _FREE):
                for path in (self.config, self.tokenizer):
                    if os.path.exists(path):
                        os.remove(path)
        files.claim(self.config, settings, "a run", "--workdir", _FREE)
