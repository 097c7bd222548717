"""The sizes and numerics of a Llama."""

import dataclasses

import jax
import jax.numpy as jnp

# Names of tensors of a block that `remat_save` may keep for the backward pass.
SAVEABLE = ("query", "key", "value", "attended", "gate", "up")
ATTENTION = ("auto", "xla", "cudnn", "splash")
DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's scaling of the rotary embedding: long wavelengths grow by `factor`."""

    factor: float = 8.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """Sizes and numerics of one Llama; hashable, to be a static argument of jitted functions.

    Raises ValueError, naming the field, for sizes that cannot form a model.
    """

    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    d_ff: int
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-5
    tied_embeddings: bool = False
    qkv_bias: bool = False  # Qwen2's: a bias on the query, key and value projections
    context_length: int = 0  # the longest sequence the weights were made for; 0: not known
    # of activations and of the KV cache; the learner's parameters are float32
    dtype: str = "float32"
    attention: str = "auto"  # kernel of attention without a cache: see attention.py
    # faster on a CPU for small models; compile time grows with the depth
    unroll_layers: bool = False
    remat: bool = False  # recompute each block in the backward pass
    remat_save: str = ""  # ... but for these of its tensors, of SAVEABLE, separated by commas
    # score this many positions at a time, so that [B, T, V] never exists; 0 means all at once
    logit_chunk: int = 0

    def __post_init__(self):
        sizes = ("vocab_size", "d_model", "n_layers", "n_heads", "n_kv_heads", "head_dim", "d_ff")
        least = dict.fromkeys(sizes, 1) | {"logit_chunk": 0, "context_length": 0}
        for name, bound in least.items():
            value = getattr(self, name)
            if value < bound:
                raise ValueError(f"model.{name} is {value}: it must be at least {bound}")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"model.n_heads ({self.n_heads}) must be a multiple of model.n_kv_heads"
                f" ({self.n_kv_heads}): each key/value head serves an equal group of query heads"
            )
        if self.head_dim % 2:
            reason = "rotary embeddings rotate pairs, so it must be even"
            raise ValueError(f"model.head_dim is {self.head_dim}: {reason}")
        if unknown := sorted(set(self.saved) - set(SAVEABLE)):
            choices = f"choose from {', '.join(SAVEABLE)}"
            raise ValueError(f"model.remat_save names {', '.join(unknown)}: {choices}")
        if self.attention not in ATTENTION:
            choices = f"choose one of {', '.join(ATTENTION)}"
            raise ValueError(f"model.attention is {self.attention!r}: {choices}")
        if self.dtype not in DTYPES:
            raise ValueError(f"model.dtype is {self.dtype!r}: choose 'float32' or 'bfloat16'")

    @classmethod
    def from_settings(cls, settings, vocab_size: int) -> "LlamaConfig":
        """The model of the `model` section of a run's configuration, whose hf_dir does not count.

        Raises ValueError, naming the field, for a vocabulary with less than the tokenizer's
        `vocab_size` ids.
        """
        size = settings["vocab_size"] or vocab_size
        if size < vocab_size:
            raise ValueError(f"model.vocab_size is {size}, but the tokenizer has {vocab_size} ids")
        scaling = RopeScaling(
            settings["rope_factor"],
            settings["rope_low_freq_factor"],
            settings["rope_high_freq_factor"],
            settings["rope_original_context"],
        )
        names = {field.name for field in dataclasses.fields(cls)} & set(settings)
        given = {name: settings[name] for name in names}
        given |= {"vocab_size": size, "rope_scaling": scaling if scaling.factor != 1 else None}
        return cls(**given)

    def to_dict(self) -> dict:
        """Every field, ready for JSON; `from_dict` reads it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict) -> "LlamaConfig":
        """The configuration that `to_dict` wrote.

        Raises ValueError for a field that is unknown or missing.
        """
        scaling = fields.get("rope_scaling")
        if scaling is not None:
            scaling = _from_fields(RopeScaling, scaling, "model.rope_scaling")
            fields = fields | {"rope_scaling": scaling}
        return _from_fields(cls, fields, "model")

    @property
    def compute_dtype(self):
        return jnp.dtype(self.dtype)

    @property
    def precision(self) -> jax.lax.Precision:
        """Precision of matrix products; float32 needs the highest.

        By default, GPUs and TPUs round operands in float32 to fewer bits.
        """
        return jax.lax.Precision.HIGHEST if self.dtype == "float32" else jax.lax.Precision.DEFAULT

    @property
    def saved(self) -> tuple[str, ...]:
        """The names in `remat_save`."""
        return tuple(name.strip() for name in self.remat_save.split(",") if name.strip())

    @property
    def n_params(self) -> int:
        """Number of parameters; an output projection tied to the embedding counts once."""
        attention = self.d_model * self.head_dim * (2 * self.n_heads + 2 * self.n_kv_heads)
        if self.qkv_bias:
            attention += self.head_dim * (self.n_heads + 2 * self.n_kv_heads)
        block = attention + 3 * self.d_model * self.d_ff + 2 * self.d_model
        embeddings = self.vocab_size * self.d_model * (1 if self.tied_embeddings else 2)
        return self.n_layers * block + embeddings + self.d_model


def _from_fields(cls, fields: dict, where: str):
    known = dataclasses.fields(cls)
    if unknown := sorted(set(fields) - {field.name for field in known}):
        reason = "it was written by another version of the library"
        raise ValueError(f"{where} has no field {unknown[0]!r}: {reason}")
    for field in known:
        if field.default is dataclasses.MISSING and field.name not in fields:
            raise ValueError(f"{where}.{field.name} is missing")
    return cls(**fields)
