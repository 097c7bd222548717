"""A configuration's Llama on this machine:

    python experiments/benchmarks/llama.py --config FILE [--steps N] [--json FILE]
    [--config.path.to.field=VALUE ...]

With random weights (or those of model.hf_dir) it samples in every slot and takes an optimiser step
of policy and value network, a reference beside them: through the programs of a run. It tells tokens
a second, the peak of memory beside what `rlef_jax.plan` predicts, and how far the logits of the
chosen attention kernel lie from those of the XLA path and of float32. Where torch and transformers
are installed, they do the same work in the same run, on the same kind of device; ratios are ours
over theirs.
"""

import dataclasses
import functools
import importlib.util
import json
import os
import sys
import tempfile
import time
from importlib import metadata

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from rich.console import Console
from rich.table import Table

from rlef_jax import build, llama, sampler, sharding
from rlef_jax.config import command, stream_capacity
from rlef_jax.plan import chips, programs
from rlef_jax.ppo_update import POLICY_ARRAYS, VALUE_ARRAYS, Ppo, init_value
from rlef_jax.rollout import Collector


def timed(call) -> tuple[float, object]:
    began = time.perf_counter()
    result = jax.block_until_ready(call())
    return time.perf_counter() - began, result


def agreement(model, mesh, params, tokens_BT) -> dict[str, float]:
    """Largest difference of logits, over the largest logit, between the chosen kernel, the XLA
    path, and float32.
    """
    run = functools.partial(
        jax.jit(llama.logits, static_argnums=(0, 3)), mesh=mesh, tokens_BT=tokens_BT
    )
    models = [
        dataclasses.replace(model, attention="xla", dtype="float32"),
        dataclasses.replace(model, attention="xla"),
        model,
    ]
    exact, plain, chosen = (np.asarray(run(each, params), np.float64) for each in models)
    gap = lambda a, b: float(np.abs(a - b).max() / np.abs(exact).max())
    return {
        "kernel_to_float32": gap(chosen, exact),
        "xla_to_float32": gap(plain, exact),
        "kernel_to_xla": gap(chosen, plain),
    }


def sample(config, model, mesh, params, steps: int) -> dict[str, float]:
    """Every slot is given a prompt and samples about `steps` tokens, in chunks as in a run."""
    # no token stops
    s, capacity, stop_ids = config.sampler, stream_capacity(config), np.array([-1], np.int32)
    collector = Collector(model, mesh, config, capacity, stop_ids)
    collector.warm_up(params, [1.0])
    compiled, read = collector.programs([1.0]), collector.read(params)
    (extend, (_, abstract, *_)), (decode, _) = compiled["splice"], compiled["decode"]
    at = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    slots = jax.jit(lambda: sampler.init_slots(model, s.slots, capacity), out_shardings=at)()
    tokens_BC = (
        np.random.default_rng(0)
        .integers(0, model.vocab_size, (s.slots, s.splice_length))
        .astype(np.int32)
    )
    each = lambda value: np.full(s.slots, value, np.int32)
    arrays = (
        tokens_BC,
        each(s.splice_length),
        each(1),
        np.arange(s.slots, dtype=np.uint32),
        each(capacity),
        each(1) > 0,
    )
    slots = extend(read, slots, *jax.device_put(arrays, sharding.batch_sharding(mesh)))
    chunks, seconds = -(-steps // s.chunk), 0.0
    for _ in range(chunks):
        took, (slots, *_) = timed(
            lambda: decode(s.chunk, 1.0, read, slots, jax.random.key(0), 1.0, stop_ids)
        )
        seconds += took
    a_step = seconds / (chunks * s.chunk)
    return {"decode_tokens_a_second": s.slots / a_step, "decode_ms_a_step": 1e3 * a_step}


def learn(config, model, mesh, ppo: Ppo, state) -> dict[str, float]:
    """An optimiser step of both networks on `batch.rows` sequences of the longest length, and the
    policy's gradient alone.
    """
    rows, length = config.batch.rows, config.batch.lengths[-1]
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.normal(size=(rows, length)).astype(np.float32)
        for name in POLICY_ARRAYS | VALUE_ARRAYS
    }
    arrays["tokens"] = rng.integers(0, model.vocab_size, (rows, length)).astype(np.int32)
    arrays["policy_weights"] = arrays["value_weights"] = np.full(
        (rows, length), 1 / (rows * length), np.float32
    )
    step = lambda state: ppo.learner.step(state, arrays, np.full(rows, length))
    state, _ = step(state)
    seconds, (state, metrics) = timed(lambda: step(state))
    if not np.isfinite(metrics["loss"]):
        raise RuntimeError(f"the loss is {metrics['loss']}: nothing measured here means anything")
    gradient, (_, total, _) = ppo.programs(length)["policy gradient"]
    read = ppo.learner.read("policy", state.params["policy"])
    piece = jax.device_put(
        {name: arrays[name] for name in POLICY_ARRAYS}, sharding.batch_sharding(mesh)
    )
    at = jax.tree.map(lambda leaf: leaf.sharding, total)
    total = jax.jit(
        lambda: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), total),
        out_shardings=at,
    )()
    gradient_seconds, _ = timed(lambda: gradient(read, total, piece))
    return {
        "update_tokens_a_second": rows * length / seconds,
        "gradient_tokens_a_second": rows * length / gradient_seconds,
    }


def peers(config, model, params, steps: int) -> dict[str, float]:
    """The same by transformers on torch: generation in `sampler.slots` rows, and the gradient of a
    mean log-prob.
    """
    import torch
    from transformers import AutoModelForCausalLM

    where = "cuda" if torch.cuda.is_available() and jax.default_backend() == "gpu" else "cpu"
    rows, length, slots = config.batch.rows, config.batch.lengths[-1], config.sampler.slots
    with tempfile.TemporaryDirectory() as folder:
        llama.save_hf(model, params, os.path.join(folder, "model"), model.dtype)
        net = AutoModelForCausalLM.from_pretrained(
            os.path.join(folder, "model"), dtype=getattr(torch, model.dtype)
        ).to(where)

    def wait() -> None:
        if where == "cuda":
            torch.cuda.synchronize()

    def measured(call) -> float:
        call()
        wait()
        began = time.perf_counter()
        call()
        wait()
        return time.perf_counter() - began

    prompt = torch.randint(0, model.vocab_size, (slots, config.sampler.splice_length), device=where)
    options = dict(
        do_sample=True, top_k=0, top_p=1.0, temperature=1.0, eos_token_id=None, pad_token_id=0
    )
    generate = lambda: net.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=steps, **options
    )
    with torch.no_grad():
        seconds = measured(generate)
    tokens = torch.randint(0, model.vocab_size, (rows, length), device=where)

    def gradient() -> None:
        logprobs = net(tokens).logits[:, :-1].float().log_softmax(-1)
        (-logprobs.gather(-1, tokens[:, 1:, None]).mean()).backward()

    net.train()
    return {
        "decode_tokens_a_second": steps * slots / seconds,
        "gradient_tokens_a_second": rows * length / measured(gradient),
    }


def peak(mesh) -> float | None:
    """GiB, on the fullest device, since the process began; None where the backend does not tell
    (CPU).
    """
    stats = [device.memory_stats() or {} for device in mesh.local_devices]
    peaks = [stat.get("peak_bytes_in_use") for stat in stats]
    return None if None in peaks else max(peaks) / chips.GIB


def run(config, steps: int) -> dict:
    model = build.model(config)
    mesh = build.mesh(config, model)
    params = build.weights(config, model, mesh)
    value = init_value(params, jax.random.key(1), model.d_model, config.ppo.value_head_std)
    ppo = Ppo(model, mesh, config, {"policy": params, "value": value})
    state, reference = ppo.learner.init({"policy": params, "value": value}), ppo.reference(params)
    del params, value
    found = {"ours": sample(config, model, mesh, state.params["policy"], steps)}
    params = jax.device_get(state.params["policy"])  # the state is donated
    found["ours"] |= learn(config, model, mesh, ppo, state)
    memory = peak(mesh)
    del state, reference
    tokens_BT = (
        np.random.default_rng(0)
        .integers(0, model.vocab_size, (sharding.batch_ways(mesh), 256))
        .astype(np.int32)
    )
    params = jax.device_put(params, sharding.shardings(params, mesh))
    found["agreement"] = agreement(model, mesh, params, tokens_BT)
    devices, chip = chips.local()
    planned = max(need.total for need in programs.plan(config, devices, chip)[2]) / chips.GIB
    found["memory_gib"] = {"peak_gib": memory, "planned_gib": planned}
    if all(importlib.util.find_spec(name) for name in ("torch", "transformers")):
        found["transformers"] = peers(config, model, params, steps)
        found["ratios"] = {
            name: found["ours"][name] / value for name, value in found["transformers"].items()
        }
    packages = ("jax", "jaxlib", "flax") + (
        ("torch", "transformers") if "transformers" in found else ()
    )
    found["machine"] = {
        "devices": f"{mesh.size} x {jax.devices()[0].device_kind}",
        "cores": os.cpu_count(),
    }
    found["versions"] = {name: metadata.version(name) for name in packages}
    return found | {
        "model": model.to_dict(),
        "parameters": model.n_params,
        "mesh": dict(mesh.shape),
        "name": config.name,
    }


def show(found: dict) -> None:
    table = Table(
        title=f"{found['name']}: {found['parameters']:,} parameters on {found['machine']['devices']}"
    )
    for column in ("figure", "ours", "transformers", "ratio"):
        table.add_column(column, justify="left" if column == "figure" else "right")
    for name, value in found["ours"].items():
        theirs = found.get("transformers", {}).get(name)
        beside = ("", "") if theirs is None else (f"{theirs:,.1f}", f"{value / theirs:.2f}")
        table.add_row(name.replace("_", " "), f"{value:,.1f}", *beside)
    for name, value in (found["agreement"] | found["memory_gib"]).items():
        table.add_row(name.replace("_", " "), "-" if value is None else f"{value:.4g}", "", "")
    Console().print(table)


def main(_) -> None:
    logging.set_verbosity(logging.WARNING)
    try:
        found = run(_CONFIG.value, _STEPS.value)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    show(found)
    if _JSON.value:
        with open(_JSON.value, "w") as file:
            json.dump(found, file, indent=1)


if __name__ == "__main__":
    _CONFIG = command.define_config()
    _STEPS = flags.DEFINE_integer("steps", 64, "tokens sampled in every slot", lower_bound=1)
    _JSON = flags.DEFINE_string("json", "", "a file to write the figures to")
    app.run(main, flags_parser=functools.partial(command.parse, _CONFIG))
