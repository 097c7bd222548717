"""Checkpoints of transformers in, ours out, and the same numbers for every supported shape."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlef_jax import llama, sampler, sharding
from rlef_jax.llama import RopeScaling, hf_config

torch = pytest.importorskip("torch", reason="the reference needs torch")
transformers = pytest.importorskip("transformers", reason="the reference needs transformers")

BASE = dict(
    vocab_size=101,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
    rms_norm_eps=1e-5,
    initializer_range=0.15,
)
# The original context lies far below the sequences of the tests, so that pairs of all three bands
# are turned.
LLAMA3 = dict(
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)
CASES = {
    "as many key/value heads as heads": dict(num_key_value_heads=4),
    "grouped heads": dict(),
    "one key/value head": dict(
        num_key_value_heads=1, rope_parameters=dict(rope_type="default", rope_theta=1e6)
    ),
    "tied embeddings": dict(tie_word_embeddings=True),
    "head_dim is not hidden_size / heads": dict(head_dim=10),
    "llama 3.1": dict(head_dim=16, rope_parameters=LLAMA3 | dict(rope_theta=5e5)),
    "llama 3.2, tied": dict(
        rope_parameters=LLAMA3 | dict(rope_theta=1e3, factor=32.0),
        tie_word_embeddings=True,
        head_dim=16,
    ),
    "qwen2": dict(
        kind="Qwen2", rms_norm_eps=1e-6, rope_parameters=dict(rope_type="default", rope_theta=1e6)
    ),
    "qwen2, tied, odd sizes": dict(
        kind="Qwen2", vocab_size=97, intermediate_size=37, tie_word_embeddings=True
    ),
    "eight heads, wide epsilon": dict(
        num_attention_heads=8, num_key_value_heads=8, rms_norm_eps=0.1, vocab_size=128
    ),
}
PROMPT, NEW = 40, 64


def make(case: dict, directory=None):
    """A model of transformers with no neutral weights, saved if a directory is given."""
    fields = BASE | case
    kind = fields.pop("kind", "Llama")
    torch.manual_seed(0)
    fields |= dict(bos_token_id=1, eos_token_id=None, pad_token_id=None)
    config = getattr(transformers, f"{kind}Config")(**fields)
    reference = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    for name, parameter in reference.named_parameters():
        if name.endswith("norm.weight"):
            parameter.data += 0.3 * torch.randn_like(parameter)
        if name.endswith("bias"):
            parameter.data += 0.5 * torch.randn_like(parameter)
    if directory is not None:
        reference.save_pretrained(directory)
    return reference


def open_reference(directory):
    """The model in a directory, in the dtype that its config.json names."""
    make = transformers.AutoModelForCausalLM.from_pretrained
    return make(directory, local_files_only=True).eval()


def tokens_of(vocab_size, rows=8, length=PROMPT):
    return np.random.default_rng(1).integers(0, vocab_size, (rows, length)).astype(np.int32)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"num_key_value_heads": None, "num_attention_heads": 8},
        {"rope_theta": 7e5, "rope_scaling": {"type": "default"}},
        {"rope_theta": 5e5, "rope_scaling": LLAMA3},
        {"rope_parameters": LLAMA3 | {"rope_theta": 5e5}},
        {"rms_norm_eps": 1e-4, "tie_word_embeddings": True},
        {"max_position_embeddings": 77, "head_dim": 12},
    ],
)
def test_a_config_is_read_as_transformers_reads_it(kind, fields):
    """Also where fields are absent."""
    sizes = dict(vocab_size=50, hidden_size=64, intermediate_size=96, num_hidden_layers=2)
    fields = {"model_type": kind, **sizes, "num_attention_heads": 32, **fields}
    theirs = getattr(transformers, f"{kind.capitalize()}Config").from_dict(fields)
    ours = hf_config.parse(fields, "config.json")
    assert ours.n_kv_heads == theirs.num_key_value_heads
    assert ours.norm_eps == theirs.rms_norm_eps
    assert ours.tied_embeddings == theirs.tie_word_embeddings
    assert ours.context_length == theirs.max_position_embeddings
    default = theirs.hidden_size // theirs.num_attention_heads
    assert ours.head_dim == (getattr(theirs, "head_dim", None) or default)
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]
    scaled = theirs.rope_parameters["rope_type"] == "llama3"
    assert ours.rope_scaling == (RopeScaling(8.0, 1.0, 4.0, 16) if scaled else None)
    assert theirs.hidden_act == "silu" and not getattr(theirs, "attention_bias", False)


def reference_logits(reference, tokens_BT):
    with torch.no_grad():
        return reference(torch.tensor(tokens_BT, dtype=torch.long)).logits.float().numpy()


def reference_continuation(reference, tokens_BT):
    tokens_BT = torch.tensor(tokens_BT, dtype=torch.long)
    mask_BT = torch.ones_like(tokens_BT)
    options = dict(attention_mask=mask_BT, do_sample=False, max_new_tokens=NEW)
    with torch.no_grad():
        return reference.generate(tokens_BT, **options)[:, PROMPT:].numpy()


def our_continuation(config, params, mesh, tokens_BT):
    """The likeliest tokens, sampled as in training: at temperature 1e-6 no other has any mass."""
    B = len(tokens_BT)
    extend, decode = sampler.compiled(config, mesh)
    slots = sampler.init_slots(config, B, PROMPT + NEW)
    if mesh is not None:
        by_row = jax.tree.map(lambda _: sharding.batch_sharding(mesh), slots)
        at = dataclasses.replace(by_row, cache=sharding.shardings(slots.cache, mesh))
        slots = jax.device_put(slots, at)
    prompt_BT, pending_B, ids_B = tokens_BT[:, :-1], tokens_BT[:, -1], np.arange(B, dtype=np.uint32)
    counts_B, left_B = np.full(B, PROMPT - 1, np.int32), np.full(B, NEW, np.int32)
    fresh_B = np.ones(B, bool)
    slots = extend(params, slots, prompt_BT, counts_B, pending_B, ids_B, left_B, fresh_B)
    key, no_stop = jax.random.key(0), np.array([-1])
    _, said_BN, _, counts_B = decode(NEW, 1.0, params, slots, key, 1e-6, no_stop)
    np.testing.assert_array_equal(counts_B, NEW)
    return np.asarray(said_BN)


def assert_same_logits(config, params, mesh, tokens_BT, expected_BTV):
    got = np.asarray(jax.jit(llama.logits, static_argnums=(0, 3))(config, params, tokens_BT, mesh))
    assert got.shape == expected_BTV.shape
    assert np.abs(got - expected_BTV).max() < 2e-5 * np.abs(expected_BTV).max()


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES.keys())
def case(request, tmp_path_factory):
    """(directory, tokens, logits, greedy continuation) of a model of transformers."""
    directory = tmp_path_factory.mktemp("reference")
    reference = make(request.param, directory)
    tokens_BT = tokens_of(reference.config.vocab_size)
    logits_BTV = reference_logits(reference, tokens_BT)
    return directory, tokens_BT, logits_BTV, reference_continuation(reference, tokens_BT)


def test_logits_and_greedy_continuations_are_those_of_transformers(case):
    directory, tokens_BT, logits_BTV, said_BN = case
    config, params = llama.load_hf(directory)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    assert_same_logits(config, params, None, tokens_BT, logits_BTV)
    np.testing.assert_array_equal(our_continuation(config, params, None, tokens_BT), said_BN)


def test_a_head_beside_tied_embeddings_is_used_as_transformers_uses_it(tmp_path):
    make(CASES["tied embeddings"] | dict(tie_word_embeddings=False), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tie_word_embeddings": True}))
    reference = open_reference(tmp_path)
    embedding, head = (
        reference.get_parameter(f"{x}.weight") for x in ("model.embed_tokens", "lm_head")
    )
    assert not torch.equal(embedding, head)  # since transformers 5
    tokens_BT = tokens_of(reference.config.vocab_size)
    config, params = llama.load_hf(tmp_path)
    assert not config.tied_embeddings
    logits_BTV = reference_logits(reference, tokens_BT)
    assert_same_logits(config, params, None, tokens_BT, logits_BTV)
    llama.save_hf(config, params, tmp_path / "out", "float32")
    np.testing.assert_array_equal(
        reference_logits(open_reference(tmp_path / "out"), tokens_BT), logits_BTV
    )


def test_logits_on_eight_devices(case, mesh_of):
    directory, tokens_BT, logits_BTV, _ = case
    mesh = mesh_of(2, 2, 2) if hf_config.read(directory).n_kv_heads % 2 == 0 else mesh_of(2, 4, 1)
    config, params = llama.load_hf(directory, mesh)
    at = jax.tree.map(lambda leaf: leaf.sharding, params)
    assert at == sharding.shardings(params, mesh)
    assert_same_logits(config, params, mesh, tokens_BT, logits_BTV)


@pytest.mark.parametrize("name", CASES)
def test_greedy_continuations_on_eight_devices(name, mesh_of, tmp_path):
    reference, mesh = make(CASES[name], tmp_path), mesh_of(2, 2, 2)
    tokens_BT = tokens_of(reference.config.vocab_size)
    config, params = llama.load_hf(tmp_path, mesh)
    said_BN = our_continuation(config, params, mesh, tokens_BT)
    np.testing.assert_array_equal(said_BN, reference_continuation(reference, tokens_BT))


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("llama 3.1", dict(rope_scaling=None)),
        ("llama 3.1", dict(rope_scaling=RopeScaling(32.0, 1.0, 4.0, 16))),
        ("llama 3.1", dict(rope_scaling=RopeScaling(8.0, 1.0, 4.0, 8))),
        ("qwen2", dict(rope_theta=1e4)),
        ("qwen2", dict(norm_eps=1e-2)),
    ],
)
def test_a_wrong_configuration_shows(name, wrong, tmp_path):
    """Otherwise the tests above might agree whatever config.json says."""
    reference = make(CASES[name], tmp_path)
    tokens_BT = tokens_of(reference.config.vocab_size)
    config = dataclasses.replace(hf_config.read(tmp_path), **wrong)
    config, params = llama.load_hf(tmp_path, config=config)
    with pytest.raises(AssertionError):
        assert_same_logits(config, params, None, tokens_BT, reference_logits(reference, tokens_BT))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("grouped heads", "bfloat16"),
        ("llama 3.2, tied", "float32"),
        ("qwen2", "bfloat16"),
        ("head_dim is not hidden_size / heads", "bfloat16"),
    ],
)
def test_an_export_opens_in_transformers_with_the_same_logits_and_bytes(
    name, dtype, mesh_of, tmp_path
):
    make(CASES[name]).to(getattr(torch, dtype)).save_pretrained(tmp_path / "in")
    reference = open_reference(tmp_path / "in")
    config, params = llama.load_hf(tmp_path / "in", mesh_of(2, 2, 2), dtype)
    tokens = dict(bos_id=1, eos_ids=(2, 3), pad_id=0)
    llama.save_hf(config, params, tmp_path / "out", dtype, max_shard_bytes=20_000, **tokens)
    opened = open_reference(tmp_path / "out")
    assert type(opened) is type(reference) and opened.dtype == getattr(torch, dtype)
    before, after = reference.state_dict(), opened.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(parameter, after[name]) for name, parameter in before.items())
    tokens_BT = tokens_of(reference.config.vocab_size)
    expected_BTV = reference_logits(reference, tokens_BT)
    np.testing.assert_array_equal(expected_BTV, reference_logits(opened, tokens_BT))
    generation = opened.generation_config
    assert generation.eos_token_id == [2, 3] and generation.bos_token_id == 1
    assert opened.config.pad_token_id == 0 and opened.config.max_position_embeddings == 512
    assert opened.config.rope_parameters == reference.config.rope_parameters
