"""Measures sampling, learning and memory of a configuration's Llama on this machine.

    python experiments/benchmarks/llama.py --config FILE [--steps N] [--json FILE]
    [--config.path.to.field=VALUE ...]

With random weights, or those of model.hf_dir, it samples in every slot and takes an optimiser step
of policy and value network, with a reference beside them, through the programs of a run. It prints
tokens a second, the peak of memory beside the one that `rlef_jax.plan` predicts, and the distance
of the logits of the chosen attention kernel to those of the XLA path and of float32. Where torch
and transformers are installed, they do the same work in the same run, on the same kind of device;
ratios are ours over theirs.
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
from rich.table import Table

from rlef_jax import build, llama, sampler, sharding
from rlef_jax.config import command, stream_capacity
from rlef_jax.plan import chips, phases, programs
from rlef_jax.ppo import PolicyPiece, Ppo, ValuePiece
from rlef_jax.runtime.progress import console


def timed(call) -> tuple[float, object]:
    began = time.perf_counter()
    result = jax.block_until_ready(call())
    return time.perf_counter() - began, result


def random_tokens(model, shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, model.vocab_size, shape).astype(np.int32)


def agreement(model, mesh, params, tokens_BT) -> dict[str, float]:
    """Largest difference of logits, over the largest logit, of kernel, XLA path and float32."""
    logits = jax.jit(llama.logits, static_argnums=(0, 3))

    def of(**changes) -> np.ndarray:
        variant = dataclasses.replace(model, **changes)
        return np.asarray(logits(variant, params, tokens_BT, mesh), np.float64)

    exact, plain, chosen = of(attention="xla", dtype="float32"), of(attention="xla"), of()

    def gap(a, b) -> float:
        return float(np.abs(a - b).max() / np.abs(exact).max())

    return {
        "kernel_to_float32": gap(chosen, exact),
        "xla_to_float32": gap(plain, exact),
        "kernel_to_xla": gap(chosen, plain),
    }


def sample(config, model, mesh, params, steps: int) -> dict[str, float]:
    """Every slot is given a prompt and samples about `steps` tokens, in chunks as in a run."""
    capacity, slots = stream_capacity(config), config.sampler.slots
    chunk, prompt = config.sampler.chunk, config.sampler.splice_length
    collector = build.collector(config, model, mesh, [-1])  # no token stops
    collector.warm_up(params, [1.0])
    splice, decode = collector.programs([1.0])
    read, at = collector.read(params), jax.tree.map(lambda x: x.sharding, splice.arguments[1])
    state = jax.jit(lambda: sampler.init_slots(model, slots, capacity), out_shardings=at)()
    pieces = (
        random_tokens(model, (slots, prompt)),
        np.full(slots, prompt, np.int32),
        np.full(slots, 1, np.int32),
        np.arange(slots, dtype=np.uint32),
        np.full(slots, capacity, np.int32),
        np.full(slots, True),
    )
    state = splice.function(read, state, *jax.device_put(pieces, sharding.batch_sharding(mesh)))
    key, stop_ids = jax.random.key(0), decode.arguments[-1]
    chunks, seconds = -(-steps // chunk), 0.0
    for _ in range(chunks):
        call = functools.partial(decode.function, chunk, 1.0, read, state, key, 1.0, stop_ids)
        took, (state, *_) = timed(call)
        seconds += took
    a_step = seconds / (chunks * chunk)
    return {"decode_tokens_a_second": slots / a_step, "decode_ms_a_step": 1e3 * a_step}


def learn(config, model, mesh, ppo: Ppo, state) -> dict[str, float]:
    """Times an optimiser step of both networks, and the policy's gradient alone.

    On `batch.rows` sequences of the longest length.
    """
    rows, length = config.batch.rows, config.batch.lengths[-1]
    tokens_BT = random_tokens(model, (rows, length))
    normal_3BT = np.random.default_rng(0).normal(size=(3, rows, length)).astype(np.float32)
    weights_BT = np.full((rows, length), 1 / (rows * length), np.float32)
    policy = PolicyPiece(tokens_BT, *normal_3BT, weights_BT)
    arrays = {"policy": policy, "value": ValuePiece(tokens_BT, *normal_3BT[:2], weights_BT)}
    step = functools.partial(ppo.learner.step, arrays=arrays, lengths_B=np.full(rows, length))
    state, _ = step(state)
    seconds, (state, metrics) = timed(lambda: step(state))
    if not np.isfinite(metrics["loss"]):
        raise RuntimeError(f"the loss is {metrics['loss']}: nothing measured here means anything")
    compiled = {(p.network, p.kind): p for p in ppo.programs(length)}
    gradient = compiled["policy", "gradient"]
    read = ppo.learner.read("policy", state.params["policy"])
    piece = jax.device_put(policy, sharding.batch_sharding(mesh))
    total = jax.tree.map(lambda x: jnp.zeros_like(x, device=x.sharding), gradient.arguments[1])
    gradient_seconds, _ = timed(lambda: gradient.function(read, total, piece))
    return {
        "update_tokens_a_second": rows * length / seconds,
        "gradient_tokens_a_second": rows * length / gradient_seconds,
    }


def peers(config, model, params, steps: int) -> dict[str, float]:
    """The same by transformers on torch: sampling, and the gradient of a mean log-prob."""
    import torch
    from transformers import AutoModelForCausalLM

    where = "cuda" if torch.cuda.is_available() and jax.default_backend() == "gpu" else "cpu"
    rows, length, slots = config.batch.rows, config.batch.lengths[-1], config.sampler.slots
    with tempfile.TemporaryDirectory() as folder:
        directory = os.path.join(folder, "model")
        llama.save_hf(model, params, directory, model.dtype)
        dtype = getattr(torch, model.dtype)
        net = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).to(where)

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
    options = dict(do_sample=True, top_k=0, top_p=1.0, temperature=1.0, max_new_tokens=steps)
    options |= dict(eos_token_id=None, pad_token_id=0, attention_mask=torch.ones_like(prompt))
    with torch.no_grad():
        seconds = measured(lambda: net.generate(prompt, **options))
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
    """GiB on the fullest device since the process began; None where it is not known (CPU)."""
    stats = [device.memory_stats() or {} for device in mesh.local_devices]
    peaks = [stat.get("peak_bytes_in_use") for stat in stats]
    return None if None in peaks else max(peaks) / chips.GIB


def run(config, steps: int) -> dict:
    model = build.model(config)
    mesh = build.mesh(config, model)
    policy = build.weights(config, model, mesh)
    std = config.ppo.value_head_std
    value = llama.init_value(policy, jax.random.key(1), model.d_model, std)
    networks = {"policy": policy, "value": value}
    ppo = build.ppo(config, model, mesh, networks)
    state, reference = ppo.learner.init(networks), ppo.reference(policy)
    del policy, value, networks
    ours = sample(config, model, mesh, state.params["policy"], steps)
    params = jax.device_get(state.params["policy"])  # the state is donated
    ours |= learn(config, model, mesh, ppo, state)
    memory = peak(mesh)
    del state, reference
    params = jax.device_put(params, sharding.shardings(params, mesh))
    tokens_BT = random_tokens(model, (sharding.batch_ways(mesh), 256))
    found = {"ours": ours, "agreement": agreement(model, mesh, params, tokens_BT)}
    devices, chip = chips.local()
    needs = programs.plan(config, devices, chip)[2]
    planned = max(each.chip for each in phases.phases(config, model, mesh, needs)) / chips.GIB
    found["memory_gib"] = {"peak_gib": memory, "planned_gib": planned}
    packages = ["jax", "jaxlib", "flax"]
    if all(importlib.util.find_spec(name) for name in ("torch", "transformers")):
        theirs = found["transformers"] = peers(config, model, params, steps)
        found["ratios"] = {name: ours[name] / value for name, value in theirs.items()}
        packages += ["torch", "transformers"]
    device = f"{mesh.size} x {jax.devices()[0].device_kind}"
    return found | {
        "machine": {"devices": device, "cores": os.cpu_count()},
        "versions": {name: metadata.version(name) for name in packages},
        "model": model.to_dict(),
        "parameters": model.n_params,
        "mesh": dict(mesh.shape),
        "name": config.name,
    }


def show(found: dict) -> None:
    about = f"{found['parameters']:,} parameters on {found['machine']['devices']}"
    table = Table(title=f"{found['name']}: {about}")
    for column in ("figure", "ours", "transformers", "ratio"):
        table.add_column(column, justify="left" if column == "figure" else "right")
    for name, value in found["ours"].items():
        theirs = found.get("transformers", {}).get(name)
        beside = ("", "") if theirs is None else (f"{theirs:,.1f}", f"{value / theirs:.2f}")
        table.add_row(name.replace("_", " "), f"{value:,.1f}", *beside)
    for name, value in (found["agreement"] | found["memory_gib"]).items():
        table.add_row(name.replace("_", " "), "-" if value is None else f"{value:.4g}", "", "")
    console().print(table)


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
