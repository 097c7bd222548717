"""config.json of Hugging Face checkpoints: all spellings that are read, all that is refused."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlef_jax import llama
from rlef_jax.llama import LlamaConfig, RopeScaling, hf, hf_config

CONFIGS = pathlib.Path(__file__).parents[2].parent / "shared" / "data" / "hf_configs"
# (n_params, head_dim, n_kv_heads, rope_theta, factor of scaling, tied), from the model cards.
REAL = {
    "7B_config_llama2": (6_738_415_616, 128, 32, 1e4, None, False),
    "13B_config_llama2": (13_016_028_160, 128, 40, 1e4, None, False),
    "8B_config_llama3": (8_030_261_248, 128, 8, 5e5, None, False),
    "8B_config_llama3.1": (8_030_261_248, 128, 8, 5e5, 8, False),
    "Llama-3.1-8B": (8_030_261_248, 128, 8, 5e5, 8, False),
    "70B_config_llama3.1": (70_553_706_496, 128, 8, 5e5, 8, False),
    "Llama-3.2-3B": (3_212_749_824, 128, 8, 5e5, 32, True),
    "SmolLM2-135M": (134_515_008, 64, 3, 1e5, None, True),
}
SCALED = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LLAMA3 = {"rope_type": "llama3", **SCALED}


def fields_of(vocab, width, layers, heads, kv_heads, ff, **more):
    return {
        "model_type": "llama",
        "vocab_size": vocab,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": ff,
        **more,
    }


# Number of parameters and sizes as published.
PUBLISHED = {
    "Qwen2.5 0.5B": (
        494_032_768,
        fields_of(151936, 896, 24, 14, 2, 4864, model_type="qwen2", tie_word_embeddings=True),
    ),
    "Qwen2.5 7B": (7_615_616_512, fields_of(152064, 3584, 28, 28, 4, 18944, model_type="qwen2")),
    "Llama 3.2 1B": (
        1_235_814_400,
        fields_of(128256, 2048, 16, 32, 8, 8192, head_dim=64, tie_word_embeddings=True),
    ),
    "TinyLlama": (1_100_048_384, fields_of(32000, 2048, 22, 32, 4, 5632)),
    "Code Llama 7B": (6_738_546_688, fields_of(32016, 4096, 32, 32, 32, 11008, rope_theta=1e6)),
}
TINY = fields_of(50, 16, 2, 4, 2, 24)
PLAIN = LlamaConfig(
    vocab_size=50,
    d_model=16,
    n_layers=2,
    n_heads=4,
    n_kv_heads=2,
    head_dim=4,
    d_ff=24,
    norm_eps=1e-6,
    context_length=2048,
)


@pytest.mark.skipif(not CONFIGS.is_dir(), reason="needs ../shared/data, the real config.json")
@pytest.mark.parametrize("name", REAL)
def test_real_configs(name):
    config = hf_config.read(CONFIGS / name)
    factor = config.rope_scaling and config.rope_scaling.factor
    found = (config.n_params, config.head_dim, config.n_kv_heads, config.rope_theta)
    assert (*found, factor, config.tied_embeddings) == REAL[name] and not config.qkv_bias
    assert config.norm_eps == 1e-5 and config.context_length in (2048, 8192, 16384, 131072)
    assert config.rope_scaling is None or config.rope_scaling == RopeScaling(factor, 1.0, 4.0, 8192)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    n_params, fields = PUBLISHED[name]
    config = hf_config.parse(fields, name)
    assert config.n_params == n_params
    # Once more, from what the files would hold.
    shapes = [tensor.shape for tensor in hf.tensors(hf.parameter_shapes(config, "float32"))]
    assert sum(int(np.prod(shape)) for shape in shapes) == n_params


def test_absent_fields_get_the_defaults():
    assert hf_config.parse(TINY, "x") == PLAIN
    fields = {name: value for name, value in TINY.items() if name != "num_key_value_heads"}
    assert hf_config.parse(fields, "x").n_kv_heads == 4
    fields |= {"num_key_value_heads": None, "head_dim": None, "rope_scaling": None}
    assert hf_config.parse(fields, "x").head_dim == 4
    qwen2 = hf_config.parse(TINY | {"model_type": "qwen2"}, "x")
    assert qwen2 == dataclasses.replace(PLAIN, qkv_bias=True, context_length=32768)


@pytest.mark.parametrize(
    "rotary",
    [
        {"rope_theta": 5e5, "rope_scaling": LLAMA3},
        {"rope_theta": 500000, "rope_scaling": {"type": "llama3", **SCALED}},
        {"rope_parameters": {**LLAMA3, "rope_theta": 5e5}},
        {"rope_theta": 5e5, "rope_parameters": LLAMA3},
        {"rope_theta": 1e4, "rope_parameters": {**LLAMA3, "rope_theta": 5e5}, "rope_scaling": None},
    ],
)
def test_every_spelling_of_the_rotary_fields(rotary):
    config = hf_config.parse(TINY | rotary, "x")
    assert (config.rope_theta, config.rope_scaling) == (5e5, RopeScaling(8.0, 1.0, 4.0, 8192))


@pytest.mark.parametrize("scaling", [None, {}, {"rope_type": "default"}, {"type": "default"}])
def test_no_scaling(scaling):
    config = hf_config.parse(TINY | {"rope_theta": 1e6, "rope_scaling": scaling}, "x")
    assert (config.rope_theta, config.rope_scaling) == (1e6, None)
    config = hf_config.parse(TINY | {"rope_parameters": (scaling or {}) | {"rope_theta": 1e6}}, "x")
    assert (config.rope_theta, config.rope_scaling) == (1e6, None)


def test_a_qwen2_with_its_window_switched_off():
    fields = {"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 32768}
    fields |= {"max_window_layers": 21, "layer_types": ["full_attention"] * 2}
    assert hf_config.parse(TINY | fields, "x").qkv_bias


REFUSED = {
    "another type": (
        {"model_type": "mistral"},
        "model_type is 'mistral': supported are llama, qwen2",
    ),
    "no type": ({"model_type": None}, "model_type is None"),
    "another head": (
        {"architectures": ["LlamaForSequenceClassification"]},
        "architectures is .*LlamaForCausalLM",
    ),
    "a bias on all four": ({"attention_bias": True}, "attention_bias is true"),
    "feed-forward bias": ({"mlp_bias": True}, "mlp_bias is true"),
    "activation": ({"hidden_act": "gelu"}, "hidden_act is 'gelu': supported is 'silu'"),
    "sliding window": (
        {"model_type": "qwen2", "use_sliding_window": True},
        "use_sliding_window asks for sliding windows",
    ),
    "sliding layers": (
        {"layer_types": ["full_attention", "sliding_attention"]},
        "layer_types asks for sliding windows",
    ),
    "quantized": ({"quantization_config": {"bits": 4}}, "quantization_config is set"),
    "half rotated": ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
    "by layer": (
        {"rope_parameters": {"full_attention": {"rope_theta": 1e6}}},
        "rope_parameters is .* the same for all layers",
    ),
    "scaling of no type": (
        {"rope_scaling": {"factor": 2.0}},
        "of type None: supported are 'default' and 'llama3'",
    ),
    "scaling without factor": (
        {"rope_scaling": {"rope_type": "llama3"}},
        "rotary scaling: factor is missing",
    ),
    "bands the wrong way": (
        {"rope_scaling": LLAMA3 | {"high_freq_factor": 1.0}},
        "high_freq_factor must be greater",
    ),
    "scaling of text": (
        {"rope_scaling": "llama3"},
        "rope_scaling is 'llama3': it must be an object",
    ),
    "missing": ({"hidden_size": None}, "hidden_size is missing"),
    "text for a number": (
        {"vocab_size": "50"},
        "vocab_size is '50': it must be an int greater than 0",
    ),
    "true for a number": ({"num_hidden_layers": True}, "num_hidden_layers is True"),
    "a fraction": ({"intermediate_size": 24.5}, "intermediate_size is 24.5: it must be an int"),
    "nothing": ({"num_attention_heads": 0}, "num_attention_heads is 0"),
    "not a number": (
        {"rope_theta": float("nan")},
        "rope_theta is nan: it must be a number greater than 0",
    ),
    "text for a flag": (
        {"tie_word_embeddings": "yes"},
        "tie_word_embeddings is 'yes': it must be true or false",
    ),
    "uneven groups": ({"num_key_value_heads": 3}, r"model.n_heads \(4\) must be a multiple"),
    "uneven heads": (
        {"num_attention_heads": 3},
        r"hidden_size \(16\) is no multiple .*: give head_dim",
    ),
}
for kind in ("linear", "dynamic", "yarn", "longrope", "su", "mrope"):
    REFUSED[f"{kind} scaling"] = (
        {"rope_scaling": {"type": kind, "factor": 2.0}},
        f"of type '{kind}': supported are",
    )


@pytest.mark.parametrize(("change", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_what_the_model_does_not_compute_is_refused_by_name(change, reason):
    with pytest.raises(ValueError, match=f"^here/config.json: .*{reason}"):
        hf_config.parse(TINY | change, "here/config.json")


def test_unknown_fields_are_one_line_in_the_log_and_known_ones_none(caplog):
    quiet = {"torch_dtype": "bfloat16", "bos_token_id": 1, "pretraining_tp": 1}
    hf_config.parse(TINY | quiet | {"transformers_version": "4.31.0"}, "x")
    assert not caplog.records
    assert hf_config.parse(TINY | {"zeta": 1, "alpha": 2}, "here/config.json") == PLAIN
    assert [record.getMessage() for record in caplog.records] == [
        "here/config.json: unknown fields are ignored: alpha, zeta"
    ]


def test_unknown_fields_are_told_once_for_each_file(caplog, tmp_path):
    for name in ("a", "b"):
        for _ in range(3):
            hf_config.parse(TINY | {"odd": 1, "odder": None}, f"{tmp_path}/{name}")
    told = [record.getMessage() for record in caplog.records]
    assert told == [f"{tmp_path}/{x}: unknown fields are ignored: odd, odder" for x in "ab"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [("{", "is damaged"), ("[1]", "holds a list"), ("\xff\xfe", "is damaged")],
)
def test_a_config_that_is_no_config(content, reason, tmp_path):
    (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=f"config.json.* {reason}"):
        hf_config.read(tmp_path)


def test_a_directory_that_is_not_there_or_holds_no_config(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no directory .*nowhere"):
        llama.load_hf(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="there is no .*config.json"):
        llama.load_hf(tmp_path)


shapes = st.builds(
    lambda heads, groups, **sizes: LlamaConfig(
        d_model=heads * groups * 6, n_heads=heads * groups, n_kv_heads=heads, **sizes
    ),
    heads=st.integers(1, 4),
    groups=st.integers(1, 4),
    vocab_size=st.integers(1, 9999),
    n_layers=st.integers(1, 99),
    head_dim=st.integers(1, 64).map(lambda half: 2 * half),
    d_ff=st.integers(1, 999),
    rope_theta=st.floats(1, 1e7),
    rope_scaling=st.none()
    | st.builds(
        RopeScaling, st.floats(1, 64), st.floats(0.1, 1), st.floats(2, 9), st.integers(1, 99999)
    ),
    norm_eps=st.floats(1e-9, 1e-1),
    tied_embeddings=st.booleans(),
    qkv_bias=st.booleans(),
    context_length=st.integers(1, 10**6),
)


@given(shapes)
@settings(deadline=None, max_examples=200)
def test_a_config_survives_config_json_and_to_dict(config):
    fields = json.loads(json.dumps(hf_config.write_fields(config, "bfloat16", 1, (2, 3), None)))
    assert hf_config.parse(fields, "x") == config
    assert LlamaConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_fields_of_tokens():
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    assert hf_config.token_fields(1, (2,), 0) == dict(zip(names, (1, 2, 0)))
    assert hf_config.token_fields(None, (), None) == dict.fromkeys(names)
    assert hf_config.token_fields(0, (5, 7), 3)["eos_token_id"] == [5, 7]


def test_from_dict_names_what_is_unknown_or_missing():
    fields = PLAIN.to_dict()
    with pytest.raises(ValueError, match="model has no field 'depth'"):
        LlamaConfig.from_dict(fields | {"depth": 3})
    with pytest.raises(ValueError, match="model.rope_scaling has no field 'beta'"):
        LlamaConfig.from_dict(fields | {"rope_scaling": {"factor": 8.0, "beta": 1}})
    with pytest.raises(ValueError, match="model.d_ff is missing"):
        LlamaConfig.from_dict({name: value for name, value in fields.items() if name != "d_ff"})
