"""Exports of a run's checkpoints: every phase and network, on other meshes, and what is refused."""

import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import tokenizers
from safetensors.numpy import load_file
from tokenizers import models, pre_tokenizers, trainers

from experiments import export_hf
from experiments.configs import mini
from rlef_jax import llama, sft, sharding
from rlef_jax.learner import TrainState
from rlef_jax.llama import LlamaConfig
from rlef_jax.runtime import checkpoint
from rlef_jax.runtime.checkpoint import Checkpoints
from rlef_jax.runtime.workdir import Workdir
from rlef_jax.tokenizer import load_tokenizer
from rlef_jax.tokenizer.export import write_hf
from rlef_jax.tokenizer.layouts import ChatLayout

ROOT = os.path.join(os.path.dirname(__file__), "..")


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_tokenizer, mesh_of, random_params):
    """(workdir, model, {phase: parameters}) of a small run, trained a little on eight devices."""
    workdir, mesh = tmp_path_factory.mktemp("run"), mesh_of(2, 2, 2)
    config = mini.get_config()
    config.sft.update(steps=3, warmup_steps=0, learning_rate=1e-2)
    config.batch.update(rows=8, lengths=(16,))
    (workdir / "config.json").write_text(config.to_json())
    shutil.copy(tiny_tokenizer.path, workdir / "tokenizer.model")
    model = LlamaConfig(
        vocab_size=tiny_tokenizer.vocab_size,
        d_model=16,
        n_layers=2,
        n_heads=4,
        n_kv_heads=2,
        head_dim=8,
        d_ff=24,
        context_length=99,
    )
    (workdir / "model.json").write_text(json.dumps(model.to_dict()))

    def save(phase, *states):
        checkpoints = Checkpoints(workdir / "checkpoints" / phase, 2)
        for step, state in states:
            checkpoints.save(step, state, {})
            checkpoints.wait()
        checkpoints.close()

    learner = sft.make_learner(model, mesh, config, {"policy": random_params(model)})
    state = learner.init({"policy": random_params(model)})
    tokens_BT = np.arange(128, dtype=np.int32).reshape(8, 16)
    arrays = sft.Piece(tokens_BT, np.full((8, 16), 1 / 128, np.float32))
    for _ in range(config.sft.steps):
        state, _ = learner.step(state, {"policy": arrays}, np.full(8, 16))
    warm = jax.device_get(state.params["policy"])
    assert np.abs(warm["embed_tokens"] - random_params(model)["embed_tokens"]).max() > 1e-3
    save("sft", (3, state))
    later = random_params(model, seed=1)
    value = llama.init_value(random_params(model, seed=2), jax.random.key(0), 16, 0.1)
    place = lambda params: jax.device_put(params, sharding.shardings(params, mesh))

    def state_of(policy):
        params = {"policy": place(policy), "value": place(value)}
        moments = jax.tree.map(lambda leaf: (leaf + 1, leaf - 1), params)
        return TrainState(params, moments, jax.numpy.int32(7))

    save("rlef", (5, state_of(warm)), (7, state_of(later)))
    best = random_params(model, seed=3)
    save("best", (4, place(best)))
    # what a killed run leaves
    (workdir / "checkpoints" / "rlef" / "9.orbax-checkpoint-tmp").mkdir()
    return workdir, model, {"sft": warm, "rlef": later, "best": best, "value": value}


def assert_exported(directory, model, params):
    config, found = llama.load_hf(directory)
    assert config == model
    jax.tree.map(np.testing.assert_array_equal, found, params)


@pytest.mark.parametrize(
    ("options", "taken", "which"),
    [
        ({}, ("best", 4), "best"),
        ({"which": "rlef"}, ("rlef", 7), "rlef"),
        ({"which": "rlef", "step": 5}, ("rlef", 5), "sft"),
        ({"step": 7}, ("rlef", 7), "rlef"),
        ({"which": "sft"}, ("sft", 3), "sft"),
    ],
)
def test_the_policy_of_every_phase(run, options, taken, which, tmp_path):
    workdir, model, params = run
    out = str(tmp_path / "out")
    assert export_hf.export(str(workdir), out, dtype="float32", **options) == taken
    assert_exported(tmp_path / "out", model, params[which])
    head = tmp_path / "out" / "value_head.safetensors"
    assert head.exists() == (taken[0] == "rlef")
    if head.exists():
        ((name, weight),) = load_file(head).items()
        assert name == "value_head.weight" and weight.dtype == np.float32
        np.testing.assert_array_equal(weight, params["value"]["value_head"]["kernel"].T)


def test_the_value_network(run, tmp_path):
    workdir, model, params = run
    options = dict(network="value", dtype="float32")
    export_hf.export(str(workdir), str(tmp_path / "out"), which="rlef", **options)
    assert_exported(tmp_path / "out", model, params["value"]["llama"])
    message = "holds no value network, the checkpoints of rlef do: choose --which=rlef"
    with pytest.raises(ValueError, match=f"best/4/state {message}"):
        export_hf.export(str(workdir), str(tmp_path / "other"), network="value")


def test_without_a_best_the_last_of_rlef_and_without_that_the_warm_start(run, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(run[0], workdir)
    shutil.rmtree(workdir / "checkpoints" / "best")
    assert checkpoint.find(Workdir(str(workdir)), "auto", None) == ("rlef", 7)
    shutil.rmtree(workdir / "checkpoints" / "rlef")
    assert checkpoint.find(Workdir(str(workdir)), "auto", None) == ("sft", 3)
    message = "does not have a checkpoint; what it has by phase is best: none$"
    with pytest.raises(FileNotFoundError, match=message):
        checkpoint.find(Workdir(str(workdir)), "best", None)
    assert not (workdir / "checkpoints" / "best").exists()


def test_transformers_opens_it_and_says_the_same(run, mesh_of, tiny_tokenizer, tmp_path):
    """Written on eight devices, restored on one: the script, as a user runs it."""
    torch = pytest.importorskip("torch", reason="the reference needs torch")
    transformers = pytest.importorskip("transformers", reason="the reference needs transformers")
    workdir, model, params = run
    out = tmp_path / "out"
    options = ("--dtype=float32", "--max_shard_gb=2e-5", "--which=rlef")
    status, said = script("--checkpoint", workdir, "--out", out, *options)
    assert (status, said) == (0, f"policy of rlef, step 7, written to {out}\n")
    assert len(list(out.glob("model-*.safetensors"))) > 1
    opened = transformers.AutoModelForCausalLM.from_pretrained(out, local_files_only=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out, local_files_only=True)
    layout = ChatLayout.make("mini", tiny_tokenizer)
    ids = layout.first(tiny_tokenizer.encode("print(int(input()) + 3)"))
    messages = [{"role": "user", "content": "print(int(input()) + 3)"}]
    options = dict(add_generation_prompt=True, tokenize=True, return_dict=False)
    assert tokenizer.apply_chat_template(messages, **options) == ids
    with torch.no_grad():
        theirs = opened(torch.tensor([ids])).logits.numpy()
    ours = np.asarray(llama.logits(model, params["rlef"], np.array([ids], np.int32)))
    assert np.abs(ours - theirs).max() < 2e-5 * np.abs(theirs).max()
    settings = opened.generation_config
    assert (settings.eos_token_id, settings.bos_token_id) == (layout.end, tiny_tokenizer.id("<s>"))
    assert settings.pad_token_id == tiny_tokenizer.pad_id


def test_the_tokenizer_of_the_weights_that_a_run_began_with_is_copied(
    run, tiny_tokenizer, tmp_path
):
    workdir, began_with = tmp_path / "run", tmp_path / "began_with"
    shutil.copytree(run[0], workdir)
    (workdir / "tokenizer.model").unlink()
    write_hf(tiny_tokenizer, "mini", began_with)
    config = json.loads((workdir / "config.json").read_text())
    config["model"]["hf_dir"] = str(began_with)
    (workdir / "config.json").write_text(json.dumps(config))
    export_hf.export(str(workdir), str(tmp_path / "out"))
    for file in began_with.iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()
    settings = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert settings["eos_token_id"] == tiny_tokenizer.id("<|end|>")


@pytest.mark.parametrize("system", ["", "Only code."])
def test_the_exported_template_gives_what_was_trained_on(run, system, tmp_path):
    """Of a run that began with weights whose own template says more."""
    transformers = pytest.importorskip("transformers", reason="the reference needs transformers")
    workdir, began_with, out = (tmp_path / name for name in ("run", "began_with", "out"))
    shutil.copytree(run[0], workdir)
    (workdir / "tokenizer.model").unlink()
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=270, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(["user assistant system\n"] * 9, trainer)
    made.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    began_with.mkdir()
    made.save(str(began_with / "tokenizer.json"))
    (began_with / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')
    own = "{{ 'You are a helpful assistant. ' + messages[0]['content'] }}"
    (began_with / "chat_template.jinja").write_text(own)
    config = json.loads((workdir / "config.json").read_text())
    config["model"]["hf_dir"] = str(began_with)
    config["tokenizer"].update(layout="chatml", system=system)
    (workdir / "config.json").write_text(json.dumps(config))
    export_hf.export(str(workdir), str(out))
    ours = load_tokenizer(began_with)
    theirs = transformers.AutoTokenizer.from_pretrained(out, local_files_only=True)
    messages = [{"role": "user", "content": "print(1)"}]
    ids = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids == ChatLayout.make("chatml", ours, system).first(ours.encode("print(1)"))
    assert (out / "source_chat_template.jinja").read_text() == own
    assert {file.stat().st_mode & 0o777 for file in out.iterdir()} == {0o666 & ~umask()}


def umask():
    os.umask(mask := os.umask(0))
    return mask


def script(*arguments):
    """(exit status, output)"""
    command = [sys.executable, "experiments/export_hf.py", *map(str, arguments)]
    env = os.environ | {"XLA_FLAGS": ""}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def test_the_script_says_what_is_wrong_in_one_line(run, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    for out, dtype, reason in (
        (tmp_path / "taken", "bfloat16", f"{tmp_path / 'taken'} exists already"),
        (tmp_path / "out", "int8", "flag --dtype=int8"),
    ):
        status, said = script("--checkpoint", run[0], "--out", out, "--dtype", dtype)
        assert status == 1 and said.startswith(f"error: {reason}") and said.count("\n") == 1, said


def test_what_cannot_be_exported(run, tmp_path):
    workdir, out = str(run[0]), str(tmp_path / "out")
    message = "there is no .*nowhere.config.json: --checkpoint must name the workdir of a run"
    with pytest.raises(FileNotFoundError, match=message):
        export_hf.export(str(tmp_path / "nowhere"), out)
    message = "does not have a checkpoint of step 6; "
    with pytest.raises(FileNotFoundError, match=f"{message}.* best: 4; rlef: 5, 7; sft: 3$"):
        export_hf.export(workdir, out, step=6)
    with pytest.raises(FileNotFoundError, match=f"{message}.* rlef: 5, 7$"):
        export_hf.export(workdir, out, which="rlef", step=6)


@pytest.mark.parametrize("change", [{"n_layers": 3}, {"qkv_bias": True}, {"tied_embeddings": True}])
def test_a_model_json_of_another_model(run, change, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(run[0], workdir)
    (workdir / "model.json").write_text(json.dumps(run[1].to_dict() | change))
    message = "best/4/state does not hold parameters of the model in model.json"
    with pytest.raises(ValueError, match=message):
        export_hf.export(str(workdir), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
