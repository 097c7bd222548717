"""Weights of Hugging Face checkpoints, in and out: tensors in their places, damage, whole files."""

import dataclasses
import json
import os
import struct

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from rlef_jax import llama, sharding
from rlef_jax.llama import LlamaConfig, hf, hf_config, hf_export

TINY = {
    "model_type": "llama",
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
}
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
NAMES = {
    "self_attn.q_proj": "self_attn/q_proj/kernel",
    "self_attn.k_proj": "self_attn/k_proj/kernel",
    "self_attn.v_proj": "self_attn/v_proj/kernel",
    "self_attn.o_proj": "self_attn/o_proj/kernel",
    "mlp.gate_proj": "mlp/gate_proj/kernel",
    "mlp.up_proj": "mlp/up_proj/kernel",
    "mlp.down_proj": "mlp/down_proj/kernel",
    "input_layernorm": "input_layernorm/scale",
    "post_attention_layernorm": "post_attention_layernorm/scale",
}


def checkpoint_tensors(dtype=np.float32, bias=False, tied=False, seed=0):
    """A checkpoint of TINY's shape as a dict, its names and shapes written down a second time."""
    rng, D, F, heads, groups = np.random.default_rng(seed), 16, 24, 16, 8
    biases = {"q": heads, "k": groups, "v": groups} if bias else {}
    shapes = {"model.embed_tokens.weight": (50, D), "model.norm.weight": (D,)}
    for i in range(2):
        block = {
            "self_attn.q_proj": (heads, D),
            "self_attn.k_proj": (groups, D),
            "self_attn.v_proj": (groups, D),
            "self_attn.o_proj": (D, heads),
            "mlp.gate_proj": (F, D),
            "mlp.up_proj": (F, D),
            "mlp.down_proj": (D, F),
            "input_layernorm": (D,),
            "post_attention_layernorm": (D,),
        }
        prefix = f"model.layers.{i}"
        shapes |= {f"{prefix}.{name}.weight": shape for name, shape in block.items()}
        shapes |= {f"{prefix}.self_attn.{x}_proj.bias": (width,) for x, width in biases.items()}
    if not tied:
        shapes["lm_head.weight"] = (50, D)
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


def write_checkpoint(directory, tensors, shards=1, **fields):
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(TINY | fields))
    if shards == 1:
        return save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    weight_map = {}
    for i in range(shards):
        file, held = f"model-{i + 1:05d}-of-{shards:05d}.safetensors", sorted(tensors)[i::shards]
        save_file({name: tensors[name] for name in held}, directory / file)
        weight_map |= dict.fromkeys(held, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def assert_holds(params, tensors):
    """Every parameter is the tensor of its name, matrices transposed; no tensor is left over."""
    leaves = flatten_dict(params, sep="/")
    found = {
        "model.embed_tokens.weight": leaves["embed_tokens"],
        "model.norm.weight": leaves["norm/scale"],
    }
    if "lm_head" in leaves:
        found["lm_head.weight"] = leaves["lm_head"].T
    for i in range(2):
        for name, path in NAMES.items():
            found[f"model.layers.{i}.{name}.weight"] = leaves[f"layers/{path}"][i].T
        for x in "qkv":
            if (path := f"layers/self_attn/{x}_proj/bias") in leaves:
                found[f"model.layers.{i}.self_attn.{x}_proj.bias"] = leaves[path][i]
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        wide, expected = np.asarray(found[name], np.float32), np.asarray(tensor, np.float32)
        np.testing.assert_array_equal(wide, expected, err_msg=name)


@pytest.mark.parametrize(
    ("file_dtype", "shards", "sizes"),
    [
        (np.float32, 1, None),
        (ml_dtypes.bfloat16, 3, None),
        (np.float16, 1, (2, 2, 2)),
        (ml_dtypes.bfloat16, 1, (1, 8, 1)),
    ],
)
def test_every_tensor_lands_where_it_belongs(file_dtype, shards, sizes, mesh_of, tmp_path):
    tensors = checkpoint_tensors(file_dtype, bias=True)
    write_checkpoint(tmp_path, tensors, shards, model_type="qwen2")
    mesh = sizes and mesh_of(*sizes)
    config, params = llama.load_hf(tmp_path, mesh)
    assert_holds(params, tensors)
    abstract = jax.eval_shape(lambda: llama.init(config, jax.random.key(0)))
    for leaf, shape in zip(jax.tree.leaves(params), jax.tree.leaves(abstract), strict=True):
        assert (leaf.shape, leaf.dtype) == (shape.shape, shape.dtype)
    if mesh:
        at = sharding.shardings(abstract, mesh)
        assert jax.tree.map(lambda leaf: leaf.sharding, params) == at
    else:
        assert all(len(leaf.devices()) == 1 for leaf in jax.tree.leaves(params))


def test_loading_in_bfloat16_is_loading_in_float32_and_casting(tmp_path):
    write_checkpoint(tmp_path, checkpoint_tensors())
    config, params = llama.load_hf(tmp_path, dtype=jnp.bfloat16)
    assert config.dtype == "bfloat16" and params["norm"]["scale"].dtype == jnp.float32
    _, wide = llama.load_hf(tmp_path)
    expected = llama.compute_params(config, wide)
    dtypes = lambda tree: jax.tree.map(lambda leaf: leaf.dtype, tree)
    assert dtypes(params) == dtypes(expected)
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    with pytest.raises(ValueError, match="model.dtype is 'float16'"):
        llama.load_hf(tmp_path, dtype=jnp.float16)


def test_a_given_config_keeps_its_settings_and_must_have_the_shape(tmp_path):
    write_checkpoint(tmp_path, checkpoint_tensors())
    given = dataclasses.replace(PLAIN, remat=True, dtype="bfloat16")
    config, params = llama.load_hf(tmp_path, config=given)
    assert config is given and params["embed_tokens"].dtype == jnp.float32
    message = r"_proj.weight is \[24, 16\], but by the configuration it must be \[32, 16\]"
    with pytest.raises(ValueError, match=message):
        llama.load_hf(tmp_path, config=dataclasses.replace(PLAIN, d_ff=32))


def test_a_tied_checkpoint_has_no_head_and_what_has_no_place_is_one_line_in_the_log(
    caplog, tmp_path
):
    tensors = checkpoint_tensors(tied=True)
    write_checkpoint(tmp_path / "a", tensors, tie_word_embeddings=True)
    config, params = llama.load_hf(tmp_path / "a")
    assert config.tied_embeddings and "lm_head" not in params and not caplog.records
    assert_holds(params, tensors)
    # The embedding once more, as a head, is no other model.
    spare = {
        "lm_head.weight": tensors["model.embed_tokens.weight"],
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones((50, 16), np.float32),
    }
    write_checkpoint(tmp_path / "b", tensors | spare, tie_word_embeddings=True)
    config, others = llama.load_hf(tmp_path / "b")
    assert config.tied_embeddings
    jax.tree.map(np.testing.assert_array_equal, params, others)
    (record,) = caplog.records
    assert record.getMessage().endswith(
        "of the model: model.layers.0.self_attn.rotary_emb.inv_freq"
    )


@pytest.mark.parametrize("shards", [1, 5])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_a_head_that_differs_from_the_embedding_is_used_whatever_the_flag_says(
    caplog, monkeypatch, tmp_path, shards, dtype
):
    monkeypatch.setattr(hf, "_ROWS", 7)  # so that the difference lies in a later part
    tensors = checkpoint_tensors(dtype, tied=True)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    write_checkpoint(tmp_path / "a", tensors, shards, tie_word_embeddings=True)
    assert llama.read_config(tmp_path / "a").tied_embeddings
    tensors["lm_head.weight"][49, 15] += 1
    write_checkpoint(tmp_path / "b", tensors, shards, tie_word_embeddings=True)
    config, params = llama.load_hf(tmp_path / "b")
    assert config == PLAIN and llama.read_config(tmp_path / "b") == PLAIN
    assert_holds(params, tensors)
    (record,) = caplog.records  # once, though the directory was read twice
    assert record.getMessage().startswith(f"{tmp_path / 'b'}: tie_word_embeddings is true, but ")
    # What is exported is the same model: both tensors, and not tied.
    llama.save_hf(config, params, tmp_path / "out", "float32")
    assert (
        json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    )
    assert_holds(llama.load_hf(tmp_path / "out")[1], tensors)


def test_a_tied_config_is_read_without_weights_and_with_some_of_them(tmp_path):
    tensors = checkpoint_tensors(tied=True) | {"lm_head.weight": np.ones((50, 16), np.float32)}
    write_checkpoint(tmp_path, tensors, 20, tie_word_embeddings=True)
    assert not llama.read_config(tmp_path).tied_embeddings
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    (tmp_path / index["weight_map"]["lm_head.weight"]).unlink()
    assert llama.read_config(tmp_path).tied_embeddings
    (tmp_path / "model.safetensors.index.json").unlink()
    assert llama.read_config(tmp_path).tied_embeddings


@pytest.fixture
def nothing_is_allocated(monkeypatch):
    def load_leaf(*_):
        raise AssertionError("weights were read before all files had been checked")

    monkeypatch.setattr(hf, "_load_leaf", load_leaf)


def edit_header(path, edit):
    """Rewrites the JSON at the head of a safetensors file."""
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.dumps(edit(json.loads(content[8 : 8 + size]))).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + content[8 + size :])


@pytest.mark.usefixtures("nothing_is_allocated")
class TestDamage:
    def refused(self, directory, reason, error=ValueError):
        with pytest.raises(error, match=reason):
            llama.load_hf(directory)

    def test_missing_tensors(self, tmp_path):
        tensors = checkpoint_tensors()
        del tensors["lm_head.weight"]
        write_checkpoint(tmp_path, tensors)
        lacks = "lacks 1 of the 21 tensors that the configuration asks for: lm_head.weight"
        self.refused(tmp_path, lacks)
        del tensors["model.layers.1.mlp.up_proj.weight"]
        write_checkpoint(tmp_path, tensors)
        self.refused(tmp_path, "lacks 2 of the 21 .*: model.layers.1.mlp.up_proj.weight and others")

    def test_a_misshapen_tensor(self, tmp_path):
        tensors = checkpoint_tensors()
        tensors["model.layers.1.mlp.up_proj.weight"] = np.ones((16, 24), np.float32)
        write_checkpoint(tmp_path, tensors, 2)
        must = r"but by the configuration it must be \[24, 16\]"
        self.refused(tmp_path, rf"layers.1.mlp.up_proj.weight is \[16, 24\], {must}")

    def test_another_dtype(self, tmp_path):
        tensors = checkpoint_tensors() | {"model.norm.weight": np.ones(16, np.int8)}
        write_checkpoint(tmp_path, tensors)
        self.refused(tmp_path, "model.norm.weight is of dtype I8: supported are F32, BF16, F16")

    @pytest.mark.parametrize("keep", [0, 5, 8, 100, -1])
    def test_a_truncated_file(self, keep, tmp_path):
        write_checkpoint(tmp_path, checkpoint_tensors())
        path = tmp_path / "model.safetensors"
        path.write_bytes(path.read_bytes()[:keep])
        damaged = "model.safetensors is damaged or incomplete .*: download or copy it again"
        self.refused(tmp_path, damaged)

    def test_a_truncated_shard(self, tmp_path):
        write_checkpoint(tmp_path, checkpoint_tensors(), 3)
        path = tmp_path / "model-00003-of-00003.safetensors"
        os.truncate(path, path.stat().st_size - 4)
        self.refused(tmp_path, "model-00003-of-00003.safetensors is damaged or incomplete")

    def test_junk_in_place_of_a_file(self, tmp_path):
        write_checkpoint(tmp_path, checkpoint_tensors())
        pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
        (tmp_path / "model.safetensors").write_bytes(pointer)
        self.refused(tmp_path, "model.safetensors is damaged or incomplete")

    def test_a_header_that_points_elsewhere(self, tmp_path):
        write_checkpoint(tmp_path, checkpoint_tensors())

        def grow(header):
            header["model.norm.weight"]["data_offsets"][1] += 4
            return header

        edit_header(tmp_path / "model.safetensors", grow)
        self.refused(tmp_path, "model.safetensors is damaged or incomplete")

    def test_a_missing_shard(self, tmp_path):
        write_checkpoint(tmp_path, checkpoint_tensors(), 3)
        (tmp_path / "model-00002-of-00003.safetensors").unlink()
        missing = "there is no .*model-00002-of-00003.safetensors, though .*index.json names it"
        self.refused(tmp_path, missing, FileNotFoundError)

    def test_an_index_that_names_a_tensor_elsewhere(self, tmp_path):
        write_checkpoint(tmp_path, checkpoint_tensors(), 2)
        path = tmp_path / "model.safetensors.index.json"
        index = json.loads(path.read_text())
        right = index["weight_map"]["model.norm.weight"]
        wrong = next(file for file in index["weight_map"].values() if file != right)
        index["weight_map"]["model.norm.weight"] = wrong
        path.write_text(json.dumps(index))
        self.refused(tmp_path, f"says that model.norm.weight is in {wrong}, but it is not")

    @pytest.mark.parametrize(
        "content", ["{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 1}}']
    )
    def test_an_index_that_is_none(self, content, tmp_path):
        write_checkpoint(tmp_path, checkpoint_tensors(), 2)
        (tmp_path / "model.safetensors.index.json").write_text(content)
        self.refused(tmp_path, "model.safetensors.index.json is not an index of weights")

    def test_no_weights(self, tmp_path):
        write_checkpoint(tmp_path, checkpoint_tensors())
        (tmp_path / "model.safetensors").unlink()
        neither = "holds neither model.safetensors nor model.safetensors.index.json"
        self.refused(tmp_path, neither, FileNotFoundError)
        (tmp_path / "pytorch_model-00001-of-00002.bin").touch()
        torch = "holds pytorch_model.bin but no safetensors: convert it with .*save_pretrained"
        self.refused(tmp_path, torch, FileNotFoundError)


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_exported_files_have_the_mode_of_any_other(umask, random_params, tmp_path):
    before = os.umask(umask)
    try:
        beside = lambda folder: open(os.path.join(folder, "other"), "w").close()
        params = random_params(PLAIN)
        llama.save_hf(PLAIN, params, tmp_path / "out", max_shard_bytes=5000, beside=beside)
    finally:
        os.umask(before)
    files = list((tmp_path / "out").iterdir())
    assert len([file for file in files if file.suffix == ".safetensors"]) > 1
    assert {file.stat().st_mode & 0o777 for file in files} == {0o666 & ~umask}


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("sizes", [None, (2, 2, 2)])
def test_out_again_byte_for_byte(dtype, sizes, mesh_of, tmp_path):
    tensors = checkpoint_tensors(jnp.dtype(dtype), bias=True)
    write_checkpoint(tmp_path / "in", tensors, 2, model_type="qwen2")
    config, params = llama.load_hf(tmp_path / "in", sizes and mesh_of(*sizes))
    llama.save_hf(config, params, tmp_path / "out", dtype)
    saved = load_file(tmp_path / "out" / "model.safetensors")
    assert saved.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert saved[name].dtype == tensor.dtype and saved[name].tobytes() == tensor.tobytes(), name
    written = ["config.json", "generation_config.json", "model.safetensors"]
    assert sorted(os.listdir(tmp_path / "out")) == written
    assert os.listdir(tmp_path).count("out.part") == 0
    assert hf_config.read(tmp_path / "out") == config
    with safe_open(tmp_path / "out" / "model.safetensors", framework="np") as file:
        assert file.metadata() == {"format": "pt"}


def test_shards_fill_in_the_order_of_the_forward_pass(random_params, tmp_path):
    params, limit = random_params(PLAIN), 3000
    llama.save_hf(PLAIN, params, tmp_path / "out", "bfloat16", limit, bos_id=1, eos_ids=(2, 9))
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    n = len(files)
    assert files == [f"model-{i:05d}-of-{n:05d}.safetensors" for i in range(1, n + 1)] and n > 2
    held = [load_file(tmp_path / "out" / file) for file in files]
    sizes = [sum(array.nbytes for array in shard.values()) for shard in held]
    assert sum(sizes) == index["metadata"]["total_size"] == 2 * PLAIN.n_params
    assert all(size <= limit for size in sizes)
    assert index["weight_map"] == {name: file for file, shard in zip(files, held) for name in shard}
    assert "model.embed_tokens.weight" in held[0] and "lm_head.weight" in held[-1]
    layers = [{name.split(".")[2] for name in shard if ".layers." in name} for shard in held]
    last = [max(numbers) for numbers in layers if numbers]
    assert last == sorted(last)
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert generation == {"bos_token_id": 1, "eos_token_id": [2, 9], "pad_token_id": None}
    _, again = llama.load_hf(tmp_path / "out")
    rounded = jax.tree.map(lambda leaf: np.asarray(leaf).astype(ml_dtypes.bfloat16), params)
    jax.tree.map(np.testing.assert_array_equal, rounded, again)


def test_a_tensor_larger_than_a_shard_gets_one_of_its_own(random_params, tmp_path):
    llama.save_hf(PLAIN, random_params(PLAIN), tmp_path / "out", max_shard_bytes=1)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 21


def test_what_exists_is_not_overwritten(random_params, tmp_path):
    (tmp_path / "out").mkdir()
    # an empty directory is free to be taken
    llama.save_hf(PLAIN, random_params(PLAIN), tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    (tmp_path / "file").touch()
    for name in ("out", "file"):
        message = f"{name} exists already: name a new directory, or delete it first"
        with pytest.raises(ValueError, match=message):
            llama.save_hf(PLAIN, random_params(PLAIN, seed=1), tmp_path / name)
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}


def test_an_export_that_fails_leaves_nothing(random_params, monkeypatch, tmp_path):
    calls = []

    def dies(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 2:
            raise OSError("no space left on device")
        save_file(*arguments, **options)

    monkeypatch.setattr(hf_export, "save_file", dies)
    with pytest.raises(OSError, match="no space"):
        llama.save_hf(PLAIN, random_params(PLAIN), tmp_path / "out", max_shard_bytes=3000)
    assert os.listdir(tmp_path) == []
    (tmp_path / "out.part").mkdir()  # what one that was killed leaves
    monkeypatch.setattr(hf_export, "save_file", save_file)
    llama.save_hf(PLAIN, random_params(PLAIN), tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"] and len(os.listdir(tmp_path / "out")) == 3


def test_bad_exports_are_refused(random_params, tmp_path):
    params = random_params(PLAIN)
    with pytest.raises(ValueError, match="dtype is 'float16': weights are exported in"):
        llama.save_hf(PLAIN, params, tmp_path / "out", "float16")
    message = r"the parameter embed_tokens has shape \(50, 16\), but .* must be \(51, 16\)"
    with pytest.raises(ValueError, match=message):
        llama.save_hf(dataclasses.replace(PLAIN, vocab_size=51), params, tmp_path / "out")
    with pytest.raises(ValueError, match="the parameter lm_head has shape .*, but .* must be None"):
        llama.save_hf(dataclasses.replace(PLAIN, tied_embeddings=True), params, tmp_path / "out")
    odd = dataclasses.replace(PLAIN, n_heads=3, n_kv_heads=1)
    message = r"model.d_model \(16\) is no multiple of model.n_heads \(3\)"
    with pytest.raises(ValueError, match=message):
        llama.save_hf(odd, random_params(odd), tmp_path / "out")
    assert not os.listdir(tmp_path)
