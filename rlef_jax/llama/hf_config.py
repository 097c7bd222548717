"""The config.json of a Hugging Face checkpoint, read and written: Llama and Qwen2, in any spelling
of the rotary fields.

Whatever a checkpoint says that this model does not compute is refused by name: weights that load
and are subtly wrong are worse than an error. Fields nobody knows are ignored, and logged.
"""

import json
import logging
import os

from rlef_jax.llama.config import LlamaConfig, RopeScaling

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}

# What transformers assumes where a field is absent, for each model type.
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
    """The model that a checkpoint's directory describes.

    Raises:
      FileNotFoundError: when there is no such directory, or no config.json in it.
      ValueError: when config.json is no JSON object, or describes a model that cannot be run here.
    """
    path = os.path.join(directory, "config.json")
    if not os.path.isdir(directory):
        raise FileNotFoundError(
            f"there is no directory {directory}: name one that holds a Hugging Face checkpoint"
        )
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no {path}: a Hugging Face checkpoint has one")
    try:
        with open(path, encoding="utf-8") as file:
            fields = json.load(file)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): download it again") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{path} holds a {type(fields).__name__}: it must be a JSON object")
    return parse(fields, path)


def parse(fields: dict, where: str) -> LlamaConfig:
    """The model that the fields of a config.json describe; absent ones get the defaults of
    transformers.

    Raises ValueError, naming `where` and the field, for what is missing, ill-typed, or not
    supported.
    """
    kind = _model_type(fields, where)
    _refuse(fields, kind, where)
    unknown = sorted(set(fields) - _READ - _WITHOUT_EFFECT)
    if unknown:
        logging.getLogger(__name__).warning(
            "%s: unknown fields are ignored: %s", where, ", ".join(unknown)
        )
    whole = lambda name, default=None: _number(fields, name, int, where, default)
    d_model, n_heads = whole("hidden_size"), whole("num_attention_heads")
    if fields.get("head_dim") is None and d_model % n_heads:
        raise ValueError(
            f"{where}: hidden_size ({d_model}) is no multiple of num_attention_heads ({n_heads}): give head_dim"
        )
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
        norm_eps=_number(fields, "rms_norm_eps", float, where, 1e-6),
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
        raise ValueError(
            f"model.d_model ({config.d_model}) is no multiple of model.n_heads ({config.n_heads}): transformers would refuse it"
        )
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
    """Null where there is no such token: transformers would assume the ids of Llama 2 if the fields
    were absent.
    """
    eos = list(eos_ids) if len(eos_ids) > 1 else next(iter(eos_ids), None)
    return {"bos_token_id": bos_id, "eos_token_id": eos, "pad_token_id": pad_id}


def _model_type(fields: dict, where: str) -> str:
    kind = fields.get("model_type")
    supported = ", ".join(ARCHITECTURES)
    if kind not in ARCHITECTURES:
        raise ValueError(f"{where}: model_type is {kind!r}: supported are {supported}")
    architectures = fields.get("architectures")
    if architectures is not None and architectures != [ARCHITECTURES[kind]]:
        raise ValueError(
            f"{where}: architectures is {architectures!r}: a supported {kind} is [{ARCHITECTURES[kind]!r}]"
        )
    return kind


def _refuse(fields: dict, kind: str, where: str) -> None:
    """ValueError for what the checkpoint's model computes and this one does not."""
    if kind == "llama" and _flag(fields, "attention_bias", where):
        raise ValueError(
            f"{where}: attention_bias is true: a bias is supported on the query, key and value of qwen2 models, not on a llama's "
            "four projections"
        )
    if _flag(fields, "mlp_bias", where):
        raise ValueError(
            f"{where}: mlp_bias is true: feed-forward layers with a bias are not supported"
        )
    if fields.get("hidden_act", "silu") != "silu":
        raise ValueError(f"{where}: hidden_act is {fields['hidden_act']!r}: supported is 'silu'")
    if _flag(fields, "use_sliding_window", where) or set(fields.get("layer_types") or ()) - {
        "full_attention"
    }:
        name = "use_sliding_window" if fields.get("use_sliding_window") else "layer_types"
        raise ValueError(
            f"{where}: {name} asks for sliding windows: only full attention is supported"
        )
    if fields.get("quantization_config") is not None:
        raise ValueError(
            f"{where}: quantization_config is set: only weights in float32, bfloat16 or float16 are supported"
        )


def _rotary(fields: dict, where: str) -> tuple[float, RopeScaling | None]:
    """(theta, scaling) from `rope_theta` and `rope_scaling`, or from `rope_parameters`, which holds
    both.
    """
    rope = {}
    for name in ("rope_parameters", "rope_scaling"):
        given = fields.get(name) or {}
        if not isinstance(given, dict) or any(isinstance(value, dict) for value in given.values()):
            raise ValueError(
                f"{where}: {name} is {given!r}: it must be an object of plain fields, the same for all layers"
            )
        rope |= given
    partial = rope.get("partial_rotary_factor", fields.get("partial_rotary_factor", 1.0))
    if partial != 1:
        raise ValueError(
            f"{where}: partial_rotary_factor is {partial!r}: only the rotation of whole heads (1.0) is supported"
        )
    theta = _number(
        {"rope_theta": rope.get("rope_theta", fields.get("rope_theta"))},
        "rope_theta",
        float,
        where,
        10_000.0,
    )
    kind = rope.get("rope_type", rope.get("type", None if "factor" in rope else "default"))
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise ValueError(
            f"{where}: the rotary scaling is of type {kind!r}: supported are 'default' and 'llama3'"
        )
    number = lambda name, kind: _number(rope, name, kind, f"{where}: rotary scaling")
    scaling = RopeScaling(
        number("factor", float),
        number("low_freq_factor", float),
        number("high_freq_factor", float),
        number("original_max_position_embeddings", int),
    )
    if scaling.low_freq_factor >= scaling.high_freq_factor:
        raise ValueError(
            f"{where}: rotary scaling: high_freq_factor must be greater than low_freq_factor"
        )
    return theta, scaling


def _number(fields: dict, name: str, kind: type, where: str, default=None):
    """A positive int, or float (which may be written as an int); null counts as absent."""
    value = fields.get(name)
    value = default if value is None else value
    if value is None:
        raise ValueError(f"{where}: {name} is missing")
    if isinstance(value, bool) or not isinstance(value, (int, kind)) or not value > 0:
        raise ValueError(
            f"{where}: {name} is {value!r}: it must be {'an int' if kind is int else 'a number'} greater than 0"
        )
    return kind(value)


def _flag(fields: dict, name: str, where: str) -> bool:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{where}: {name} is {value!r}: it must be true or false")
    return bool(value)
