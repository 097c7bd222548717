"""Reads and writes the config.json of a Hugging Face checkpoint of Llama or Qwen2.

What a checkpoint asks for and this model does not compute is refused by name: weights that load and
are subtly wrong are worse than an error. Unknown fields are ignored, and logged.
"""

import functools
import logging
import os

from rlef_jax.llama.config import LlamaConfig, RopeScaling
from rlef_jax.runtime import files

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}

# What transformers assumes of each model type where a field is absent.
_CONTEXT = {"llama": 2048, "qwen2": 32768}
_KV_HEADS = {"llama": None, "qwen2": 32}  # None: as many as heads

# Fields that `parse` reads, and fields that do not change what the model computes.
_READ = {
    "architectures",
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "rms_norm_eps",
    "max_position_embeddings",
    "tie_word_embeddings",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "partial_rotary_factor",
    "attention_bias",
    "mlp_bias",
    "use_sliding_window",
    "layer_types",
    "quantization_config",
}
_WITHOUT_EFFECT = {
    "_name_or_path",
    "attention_dropout",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "initializer_range",
    "max_window_layers",
    "pad_token_id",
    "pretraining_tp",
    "sliding_window",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}


def read(directory: str | os.PathLike) -> LlamaConfig:
    """The model in the directory of a checkpoint.

    Raises:
      FileNotFoundError: when there is no such directory, or no config.json in it.
      ValueError: when config.json is no JSON object, or describes a model that cannot be run here.
    """
    path = os.path.join(directory, "config.json")
    if not os.path.isdir(directory):
        advice = "name one that holds a Hugging Face checkpoint"
        raise FileNotFoundError(f"there is no directory {directory}: {advice}")
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no {path}: a Hugging Face checkpoint has one")
    return parse(files.read_object(path, "download it again"), path)


def parse(fields: dict, where: str) -> LlamaConfig:
    """The model of the fields of a config.json; absent ones get the defaults of transformers.

    Raises ValueError, naming `where` and the field, for what is missing, ill-typed, or not
    supported.
    """
    kind = _model_type(fields, where)
    _refuse(fields, kind, where)
    unknown = sorted(set(fields) - _READ - _WITHOUT_EFFECT)
    if unknown:
        warn_once(f"{where}: unknown fields are ignored: {', '.join(unknown)}")
    whole = functools.partial(_number, fields, where, int)
    d_model, n_heads = whole("hidden_size"), whole("num_attention_heads")
    if fields.get("head_dim") is None and d_model % n_heads:
        multiple = f"hidden_size ({d_model}) is no multiple of num_attention_heads ({n_heads})"
        raise ValueError(f"{where}: {multiple}: give head_dim")
    n_kv_heads = fields.get("num_key_value_heads", _KV_HEADS[kind])
    theta, scaling = _rotary(fields, where)
    shape = dict(
        vocab_size=whole("vocab_size"),
        d_model=d_model,
        n_layers=whole("num_hidden_layers"),
        n_heads=n_heads,
        n_kv_heads=n_heads if n_kv_heads is None else whole("num_key_value_heads", n_kv_heads),
        head_dim=whole("head_dim", d_model // n_heads),
        d_ff=whole("intermediate_size"),
        rope_theta=theta,
        rope_scaling=scaling,
        norm_eps=_number(fields, where, float, "rms_norm_eps", 1e-6),
        tied_embeddings=_flag(fields, "tie_word_embeddings", where),
        qkv_bias=kind == "qwen2",
        context_length=whole("max_position_embeddings", _CONTEXT[kind]),
    )
    try:
        return LlamaConfig(**shape)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def write_fields(
    config: LlamaConfig,
    dtype: str,
    bos_id: int | None,
    eos_ids: tuple[int, ...],
    pad_id: int | None,
) -> dict:
    """The fields of a config.json; `parse` gives the model back.

    transformers reads them from 4.40 on, with Llama 3's scaling from 4.43 on.

    Raises ValueError for a model that transformers refuses to open.
    """
    if config.d_model % config.n_heads:
        multiple = f"({config.d_model}) is no multiple of model.n_heads ({config.n_heads})"
        raise ValueError(f"model.d_model {multiple}: transformers would refuse it")
    kind, scaling = "qwen2" if config.qkv_bias else "llama", config.rope_scaling
    fields = {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": None,
        "tie_word_embeddings": config.tied_embeddings,
        "torch_dtype": dtype,
        **token_fields(bos_id, eos_ids, pad_id),
    }
    if config.context_length:
        fields["max_position_embeddings"] = config.context_length
    if scaling is not None:
        fields["rope_scaling"] = {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context,
        }
    return fields


def token_fields(bos_id: int | None, eos_ids: tuple[int, ...], pad_id: int | None) -> dict:
    """The ids of special tokens; null where there is none.

    Were the fields absent, transformers would assume the ids of Llama 2.
    """
    eos = list(eos_ids) if len(eos_ids) > 1 else next(iter(eos_ids), None)
    return {"bos_token_id": bos_id, "eos_token_id": eos, "pad_token_id": pad_id}


@functools.cache
def warn_once(text: str) -> None:
    """Logs a warning that has not been logged yet: a run reads the same files several times."""
    logging.getLogger(__name__).warning("%s", text)


def _model_type(fields: dict, where: str) -> str:
    kind = fields.get("model_type")
    if kind not in ARCHITECTURES:
        supported = ", ".join(ARCHITECTURES)
        raise ValueError(f"{where}: model_type is {kind!r}: supported are {supported}")
    found, supported = fields.get("architectures"), [ARCHITECTURES[kind]]
    if found is not None and found != supported:
        raise ValueError(
            f"{where}: architectures is {found!r}: a supported {kind} is {supported!r}"
        )
    return kind


def _refuse(fields: dict, kind: str, where: str) -> None:
    """Raises ValueError for what the checkpoint's model computes and this one does not."""
    windows = "asks for sliding windows: only full attention is supported"
    reason = ""
    if kind == "llama" and _flag(fields, "attention_bias", where):
        reason = (
            "attention_bias is true: a bias is supported on the query, key and value of qwen2"
            " models, not on a llama's four projections"
        )
    elif _flag(fields, "mlp_bias", where):
        reason = "mlp_bias is true: feed-forward layers with a bias are not supported"
    elif fields.get("hidden_act", "silu") != "silu":
        reason = f"hidden_act is {fields['hidden_act']!r}: supported is 'silu'"
    elif _flag(fields, "use_sliding_window", where):
        reason = f"use_sliding_window {windows}"
    elif set(fields.get("layer_types") or ()) - {"full_attention"}:
        reason = f"layer_types {windows}"
    elif fields.get("quantization_config") is not None:
        weights = "only weights in float32, bfloat16 or float16 are supported"
        reason = f"quantization_config is set: {weights}"
    if reason:
        raise ValueError(f"{where}: {reason}")


def _rotary(fields: dict, where: str) -> tuple[float, RopeScaling | None]:
    """(theta, scaling) in any spelling: `rope_theta` and `rope_scaling`, or `rope_parameters`."""
    rope = {}
    for name in ("rope_parameters", "rope_scaling"):
        given = fields.get(name) or {}
        if not isinstance(given, dict) or any(isinstance(value, dict) for value in given.values()):
            must = "it must be an object of plain fields, the same for all layers"
            raise ValueError(f"{where}: {name} is {given!r}: {must}")
        rope |= given
    partial = rope.get("partial_rotary_factor", fields.get("partial_rotary_factor", 1.0))
    if partial != 1:
        supported = "only the rotation of whole heads (1.0) is supported"
        raise ValueError(f"{where}: partial_rotary_factor is {partial!r}: {supported}")
    given = {"rope_theta": fields.get("rope_theta")} | rope
    theta = _number(given, where, float, "rope_theta", 10_000.0)
    kind = rope.get("rope_type", rope.get("type", None if "factor" in rope else "default"))
    if kind == "default":
        return theta, None
    if kind != "llama3":
        supported = "supported are 'default' and 'llama3'"
        raise ValueError(f"{where}: the rotary scaling is of type {kind!r}: {supported}")
    number = functools.partial(_number, rope, f"{where}: rotary scaling")
    scaling = RopeScaling(
        number(float, "factor"),
        number(float, "low_freq_factor"),
        number(float, "high_freq_factor"),
        number(int, "original_max_position_embeddings"),
    )
    if scaling.low_freq_factor >= scaling.high_freq_factor:
        must = "high_freq_factor must be greater than low_freq_factor"
        raise ValueError(f"{where}: rotary scaling: {must}")
    return theta, scaling


def _number(fields: dict, where: str, kind: type, name: str, default=None):
    """A positive int, or float (which may be written as an int); null counts as absent."""
    value = fields.get(name)
    value = default if value is None else value
    if value is None:
        raise ValueError(f"{where}: {name} is missing")
    if isinstance(value, bool) or not isinstance(value, (int, kind)) or not value > 0:
        wanted = "an int" if kind is int else "a number"
        raise ValueError(f"{where}: {name} is {value!r}: it must be {wanted} greater than 0")
    return kind(value)


def _flag(fields: dict, name: str, where: str) -> bool:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{where}: {name} is {value!r}: it must be true or false")
    return bool(value)
