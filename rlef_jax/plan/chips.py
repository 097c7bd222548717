"""Finds the devices that a run is planned for: this machine's, or any that a compiler knows."""

import dataclasses
import os
import re

import jax
from jax.experimental import topologies

from rlef_jax.runtime import gpu_memory

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """Public figures of one chip; None where they are not known (a CPU)."""

    name: str
    memory: float  # bytes, as compiler or driver report: a little less than is sold
    flops: float | None = None  # dense bfloat16, a second
    bandwidth: float | None = None  # bytes of its memory a second
    links: float | None = None  # bytes a second that it can receive over all links to other chips


# {the name that a topology starts with: (jax's name of the device, its figures)}
CHIPS = {
    "v5e": ("TPU v5 lite", Chip("TPU v5e", 15.75 * GIB, 197e12, 819e9, 200e9)),
    "v5p": ("TPU v5", Chip("TPU v5p", 95.73 * GIB, 459e12, 2765e9, 600e9)),
    "v6e": ("TPU v6 lite", Chip("TPU v6e", 31.24 * GIB, 918e12, 1640e9, 448e9)),
    "h100": ("NVIDIA H100", Chip("H100 SXM", 79.1 * GIB, 989e12, 3350e9, 450e9)),
    "h200": ("NVIDIA H200", Chip("H200 SXM", 139.8 * GIB, 989e12, 4800e9, 450e9)),
}
_AXES = {"v5e": 2, "v5p": 3, "v6e": 2}  # of a slice

# Settings that keep libtpu from looking for a machine to run on and complaining that it finds none.
_QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}


def local() -> tuple[list, Chip]:
    """The devices of this machine, and what they are.

    A CPU's memory is dealt out evenly over its devices, and nothing is known of its speed.

    Raises ValueError for a device of unknown memory.
    """
    devices = jax.devices()
    kind = devices[0].device_kind
    if devices[0].platform == "cpu":
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return devices, Chip("CPU", memory / len(devices))
    chip = Chip(kind, memory=0)
    for name, known in CHIPS.values():
        if kind == name or (name.startswith("NVIDIA") and kind.startswith(name)):
            chip = known
    memory = (devices[0].memory_stats() or {}).get("bytes_limit") or chip.memory
    if not memory:
        advice = f"plan for a chip of the table with --topology ({', '.join(CHIPS)})"
        raise ValueError(f"nothing is known of a {kind}: {advice}")
    return devices, dataclasses.replace(chip, memory=memory)


def for_topology(topology: str) -> tuple[list, Chip]:
    """The devices of a TPU slice like v5p:4x4x4, or the GPUs of a machine like h200:8.

    They need not exist: programs can be compiled for them, not run. The memory of a GPU is the
    share of it that the commands let jax take.

    Raises ValueError for a name that is neither, or when the compiler for it is not installed.
    """
    flag, (name, _, shape) = f"--topology={topology}", topology.partition(":")
    if name not in CHIPS:
        known = f"{', '.join(CHIPS)}, as in v5p:4x4x4"
        raise ValueError(f"{flag}: there is no chip {name!r}; choose one of {known}")
    is_tpu, axes = name in _AXES, _AXES.get(name, 1)
    if not re.fullmatch("x".join([r"[1-9]\d*"] * axes), shape):
        gpus = f"a machine has one number of {name}"
        must = f"sizes of a {name} slice are {axes}" if is_tpu else gpus
        raise ValueError(f"{flag}: {must}, as in {name}:{'x'.join(['4'] * axes)}")
    # Whatever this machine has is left alone: a plugin without its chip fails to start, and then
    # does not compile either.
    jax.config.update("jax_platforms", "cpu")
    try:
        found = _slice(topology, shape) if is_tpu else _gpus(*CHIPS[name], shape)
        chip = CHIPS[name][1]
        share = 1.0 if is_tpu else gpu_memory.SHARE
        return found.devices, dataclasses.replace(chip, memory=share * chip.memory)
    except Exception as error:  # of types that jax does not export
        reason = str(error).splitlines()[0]
        if re.search("not installed|not implemented|libtpu|nknown backend|[Nn]o such file", reason):
            install = "-r requirements-plan.txt" if is_tpu else _CUDA
            advice = f"pip install {install}, best in a virtual environment of its own"
            raise ValueError(f"{flag}: the compiler for it is missing; {advice}") from error
        raise ValueError(f"{flag}: the compiler knows no such devices ({reason})") from error


def _slice(topology: str, shape: str):
    for variable, value in _QUIET.items():
        os.environ.setdefault(variable, value)
    options = {"chips_per_host_bounds": [1, 1, 1]} if set(shape.split("x")) == {"1"} else {}
    return topologies.get_topology_desc(platform="tpu", topology_name=topology, **options)


def _gpus(name: str, chip: Chip, count: str):
    """GPUs of one host, described to the CUDA compiler, which would otherwise ask a card."""
    bandwidth, memory = int(chip.bandwidth), int(chip.memory)
    target = _HOPPER.format(bandwidth=bandwidth, memory=memory, name=name)
    return topologies.get_topology_desc(
        platform="cuda", topology_name="", topology=f"1x1x{count}", target_config=target
    )


# The packages that compile for GPUs; what runs programs on them is not needed.
_CUDA = f"jax-cuda13-plugin=={jax.__version__} nvidia-cudnn-cu13"
# A card of NVIDIA's Hopper generation.
_HOPPER = """
gpu_device_info {{
  name: "{name}" device_vendor: "NVIDIA Corporation"
  cuda_compute_capability {{ major: 9 }} device_address_bits: 64
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98 threads_per_warp: 32
  memory_bandwidth: {bandwidth} device_memory_size: {memory} l2_cache_size: 52428800
  threads_per_block_limit: 1024 threads_per_core_limit: 2048
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA" device_description_str: "{name}" dnn_version_info {{ major: 9 minor: 10 }}
"""
