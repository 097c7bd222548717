"""The shape of a Llama, and the arithmetic that follows from it."""

import dataclasses

import jax
import jax.numpy as jnp

# Tensors of a block that `remat_save` may keep for the backward pass.
SAVEABLE = ("query", "key", "value", "attended", "gate", "up")
ATTENTION = ("auto", "xla", "cudnn", "splash")


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's stretching of the rotary frequencies: long wavelengths slow down by `factor`,
    short ones stay.
    """

    factor: float = 8.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """Sizes and numerics of one Llama; hashable, so that it can be a static argument of a jitted
    function.

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
        for name in (
            "vocab_size",
            "d_model",
            "n_layers",
            "n_heads",
            "n_kv_heads",
            "head_dim",
            "d_ff",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name} is {getattr(self, name)}: it must be at least 1")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"model.n_heads ({self.n_heads}) must be a multiple of model.n_kv_heads ({self.n_kv_heads}): "
                "each key/value head serves an equal group of query heads"
            )
        if self.head_dim % 2:
            raise ValueError(
                f"model.head_dim is {self.head_dim}: rotary embeddings rotate pairs, so it must be even"
            )
        if self.logit_chunk < 0:
            raise ValueError(f"model.logit_chunk is {self.logit_chunk}: it must be at least 0")
        unknown = set(self.saved) - set(SAVEABLE)
        if unknown:
            raise ValueError(
                f"model.remat_save names {', '.join(sorted(unknown))}: choose from {', '.join(SAVEABLE)}"
            )
        if self.attention not in ATTENTION:
            raise ValueError(
                f"model.attention is {self.attention!r}: choose one of {', '.join(ATTENTION)}"
            )
        if self.context_length < 0:
            raise ValueError(
                f"model.context_length is {self.context_length}: it must be at least 0"
            )
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"model.dtype is {self.dtype!r}: choose 'float32' or 'bfloat16'")

    @classmethod
    def from_settings(cls, settings, vocab_size: int) -> "LlamaConfig":
        """The model that the `model` section of a run's configuration describes; its hf_dir is not
        looked into.

        Raises ValueError, naming the field, for a vocabulary with less than the tokenizer's
        `vocab_size` ids.
        """
        s = dict(settings)
        if s["vocab_size"] and s["vocab_size"] < vocab_size:
            raise ValueError(
                f"model.vocab_size is {s['vocab_size']}, but the tokenizer has {vocab_size} ids"
            )
        scaling = RopeScaling(
            s["rope_factor"],
            s["rope_low_freq_factor"],
            s["rope_high_freq_factor"],
            s["rope_original_context"],
        )
        fields = {field.name for field in dataclasses.fields(cls)} & set(s)
        sizes = {name: s[name] for name in fields} | {"vocab_size": s["vocab_size"] or vocab_size}
        return cls(**sizes, rope_scaling=scaling if scaling.factor != 1 else None)

    def to_dict(self) -> dict:
        """Every field, ready for JSON; `from_dict` reads it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict) -> "LlamaConfig":
        """The configuration that `to_dict` wrote; ValueError for a field that is unknown or
        missing.
        """
        fields = dict(fields)
        if fields.get("rope_scaling") is not None:
            fields["rope_scaling"] = _from_fields(
                RopeScaling, fields["rope_scaling"], "model.rope_scaling"
            )
        return _from_fields(cls, fields, "model")

    @property
    def compute_dtype(self):
        return jnp.dtype(self.dtype)

    @property
    def precision(self) -> jax.lax.Precision:
        """Of matrix products. float32 means float32: by default, GPUs and TPUs round its operands
        to fewer bits.
        """
        return jax.lax.Precision.HIGHEST if self.dtype == "float32" else jax.lax.Precision.DEFAULT

    @property
    def saved(self) -> tuple[str, ...]:
        """The names in `remat_save`."""
        return tuple(name.strip() for name in self.remat_save.split(",") if name.strip())

    @property
    def n_params(self) -> int:
        """Trainable scalars, the output projection counted once when it is tied to the embedding."""
        attention = self.d_model * self.head_dim * (2 * self.n_heads + 2 * self.n_kv_heads)
        if self.qkv_bias:
            attention += self.head_dim * (self.n_heads + 2 * self.n_kv_heads)
        block = attention + 3 * self.d_model * self.d_ff + 2 * self.d_model
        embeddings = self.vocab_size * self.d_model * (1 if self.tied_embeddings else 2)
        return self.n_layers * block + embeddings + self.d_model


def _from_fields(cls, fields: dict, where: str):
    known = dataclasses.fields(cls)
    unknown = sorted(set(fields) - {field.name for field in known})
    missing = [
        field.name
        for field in known
        if field.default is dataclasses.MISSING and field.name not in fields
    ]
    if unknown:
        raise ValueError(
            f"{where} has no field {unknown[0]!r}: it was written by another version of the library"
        )
    if missing:
        raise ValueError(f"{where}.{missing[0]} is missing")
    return cls(**fields)
