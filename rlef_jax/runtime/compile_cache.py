"""Keeps compiled programs on disk, so that the next start of a command need not compile them."""

import hashlib
import os
import pathlib
import platform
import warnings

import jax

# Of small programs, which a run has many of, jax would keep none.
_KEEPS_ALL = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


def use() -> None:
    """Makes jax keep what it compiles under the user's cache directory; commands call it first.

    That is `$XDG_CACHE_HOME/rlef_jax/compiled`, or `~/.cache/rlef_jax/compiled`. The variables of
    jax come first: with JAX_COMPILATION_CACHE_DIR in the environment nothing changes, and none is
    kept where it is empty. Nor is any where the directory cannot be written.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = os.path.join(home, "rlef_jax", "compiled", _processor())
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError:
        return
    if not os.access(folder, os.W_OK):
        return
    # Without the cache a program is compiled, which is no reason to complain once for each.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    jax.config.update("jax_compilation_cache_dir", folder)
    for name, value in _KEEPS_ALL.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)


def _processor() -> str:
    """A name for processors with the same instructions, which a home may be shared without."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    features = [line for line in lines if line.startswith(("flags", "Features"))][:1]
    digest = hashlib.sha256("".join([platform.processor(), *features]).encode()).hexdigest()
    return f"{platform.machine()}-{digest[:12]}"
