"""Chips and slices that a run can be planned for, owned or not."""

import dataclasses
import os
import re

import jax
from jax.experimental import topologies

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """Public figures of one chip; None where they are not known (a CPU).

    `memory` is what a program can have, as the compiler or the driver reports it, a little less
    than what is sold. `links` is what a chip can receive over all its links to other chips of the
    slice at once.
    """

    name: str
    memory: float  # bytes
    flops: float | None = None  # dense bfloat16, a second
    bandwidth: float | None = None  # bytes of its memory a second
    links: float | None = None  # bytes a second


# By the name a topology starts with. jax's name of the device, for the machine at hand, stands
# beside it.
CHIPS = {
    "v5e": ("TPU v5 lite", Chip("TPU v5e", 15.75 * GIB, 197e12, 819e9, 200e9)),
    "v5p": ("TPU v5", Chip("TPU v5p", 95.73 * GIB, 459e12, 2765e9, 600e9)),
    "v6e": ("TPU v6 lite", Chip("TPU v6e", 31.24 * GIB, 918e12, 1640e9, 448e9)),
    "h100": ("NVIDIA H100", Chip("H100 SXM", 79.1 * GIB, 989e12, 3350e9, 450e9)),
    "h200": ("NVIDIA H200", Chip("H200 SXM", 139.8 * GIB, 989e12, 4800e9, 450e9)),
}
_AXES = {"v5e": 2, "v5p": 3, "v6e": 2}  # of a slice

# libtpu looks for a machine to run on, and complains at length that it finds none.
_QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}


def here() -> tuple[list, Chip]:
    """This machine's devices. On a CPU its memory is dealt out evenly over them, and nothing is
    known of its speed.
    """
    devices = jax.devices()
    kind = devices[0].device_kind
    if devices[0].platform == "cpu":
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return devices, Chip("CPU", memory / len(devices))
    matches = [
        chip
        for name, chip in CHIPS.values()
        if kind == name or (name.startswith("NVIDIA") and kind.startswith(name))
    ]
    limit = (devices[0].memory_stats() or {}).get("bytes_limit")
    if not matches and not limit:
        raise ValueError(
            f"nothing is known of a {kind}: plan for a chip of the table with --topology ({', '.join(CHIPS)})"
        )
    chip = matches[0] if matches else Chip(kind, limit)
    return devices, dataclasses.replace(chip, memory=limit or chip.memory)


def of(topology: str) -> tuple[list, Chip]:
    """The devices of a TPU slice like v5p:4x4x4, or GPUs of a machine like h200:8. They need not
    exist: programs can be compiled for them, not run.

    Raises ValueError for a name that is neither, or when the compiler for it is not installed.
    """
    name, _, shape = topology.partition(":")
    if name not in CHIPS:
        raise ValueError(
            f"--topology={topology}: there is no chip {name!r}; choose one of {', '.join(CHIPS)}, as in v5p:4x4x4"
        )
    axes = _AXES.get(name, 1)
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){%d}" % (axes - 1), shape):
        what = (
            f"sizes of a {name} slice are {axes}"
            if name in _AXES
            else f"a machine has one number of {name}"
        )
        raise ValueError(f"--topology={topology}: {what}, as in {name}:{'x'.join(['4'] * axes)}")
    find, install = (_slice, "-r requirements-plan.txt") if name in _AXES else (_gpus, _CUDA)
    try:
        return find(topology, name, shape).devices, CHIPS[name][1]
    except Exception as error:  # of types that jax does not export
        reason = str(error).splitlines()[0]
        if re.search("not installed|not implemented|libtpu|nknown backend|[Nn]o such file", reason):
            raise ValueError(
                f"--topology={topology}: the compiler for it is missing; pip install {install}, best in a virtual environment of "
                "its own"
            ) from error
        raise ValueError(
            f"--topology={topology}: the compiler knows no such devices ({reason})"
        ) from error


def _slice(topology: str, name: str, shape: str):
    for variable, value in _QUIET.items():
        os.environ.setdefault(variable, value)
    options = {"chips_per_host_bounds": [1, 1, 1]} if set(shape.split("x")) == {"1"} else {}
    return topologies.get_topology_desc(platform="tpu", topology_name=topology, **options)


def _gpus(topology: str, name: str, count: str):
    """Of one host. What the CUDA compiler would ask a card of NVIDIA's Hopper generation about
    itself is told it here.
    """
    chip = CHIPS[name][1]
    target = _HOPPER.format(
        bandwidth=int(chip.bandwidth), memory=int(chip.memory), name=CHIPS[name][0]
    )
    return topologies.get_topology_desc(
        platform="cuda", topology_name="", topology=f"1x1x{count}", target_config=target
    )


# the other libraries of a GPU's machine are not needed
_CUDA = f"jax-cuda13-plugin=={jax.__version__} nvidia-cudnn-cu13"
_HOPPER = """
gpu_device_info {{
  name: "{name}" device_vendor: "NVIDIA Corporation" cuda_compute_capability {{ major: 9 }} device_address_bits: 64
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98 threads_per_warp: 32
  memory_bandwidth: {bandwidth} device_memory_size: {memory} l2_cache_size: 52428800
  threads_per_block_limit: 1024 threads_per_core_limit: 2048
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA" device_description_str: "{name}" dnn_version_info {{ major: 9 minor: 10 }}
"""
