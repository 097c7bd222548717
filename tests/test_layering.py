"""Who may import whom, read off the syntax trees, and checked once more in a running process."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent

# From the top down, as in DESIGN.md section 3: a module imports from its own layer or those below it.
LAYERS = [
    {"dry_run"},
    {"train", "plan", "evaluate"},
    {"build", "players"},
    {
        "rollout", "learner", "ppo_update", "sft", "solve_rates", "checkpoint", "report", "metrics", "workdir", "environment",
        "replay", "results", "diagnostics",
    },
    {"sampler", "ppo", "trajectories", "episode", "estimators", "clustering", "plan_costs"},
    {"llama", "prompts", "tokenizer", "datasets"},
    {"weights", "hosts"},
    {"sharding", "config", "config_checks", "types", "command", "plan_devices", "terminal", "interrupt", "table"},
]  # fmt: skip
NO_JAX = {"episode", "prompts", "environment", "datasets", "tokenizer", "types", "trajectories", "config", "config_checks"}
NO_JAX |= {"solve_rates", "results", "clustering", "estimators", "report", "replay", "diagnostics", "table"}
FORBIDDEN = {"jax", "jaxlib", "flax", "optax", "orbax"}


def modules(package: str) -> dict[pathlib.Path, str]:
    """{file: its module name}."""
    files = sorted((ROOT / package).rglob("*.py"))
    return {file: ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files}


def imports(file: pathlib.Path) -> set[str]:
    """Full names of what a file imports, also inside functions: `from a import b` gives a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def part(name: str) -> str | None:
    """The part of the library that a dotted name belongs to: 'rlef_jax.llama.model' -> 'llama'."""
    pieces = name.split(".")
    return pieces[1] if pieces[0] == "rlef_jax" and len(pieces) > 1 else None


LIBRARY = modules("rlef_jax")
DEPTH = {name: depth for depth, layer in enumerate(LAYERS) for name in layer}


def test_every_module_has_a_layer():
    assert {part(name) for name in LIBRARY.values()} - {None} <= set(DEPTH)


@pytest.mark.parametrize("file", LIBRARY, ids=LIBRARY.values())
def test_imports_run_downward(file):
    own = part(LIBRARY[file])
    for name in imports(file):
        assert name.split(".")[0] not in ("experiments", "notebooks", "tests"), f"{file} imports {name}"
        other = part(name)
        if own and other in DEPTH:
            assert DEPTH[other] >= DEPTH[own], f"{own} imports {other}, which lies above it"


def test_no_two_parts_import_each_other():
    below = {name: set() for name in DEPTH}
    for file, module in LIBRARY.items():
        if own := part(module):
            below[own] |= {part(name) for name in imports(file)} & set(DEPTH) - {own}
    while below:
        free = [name for name, others in below.items() if not others & set(below)]
        assert free, f"these import each other in a circle: {sorted(below)}"
        for name in free:
            del below[name]


@pytest.mark.parametrize("file", LIBRARY, ids=LIBRARY.values())
def test_only_llama_imports_flax(file):
    if part(LIBRARY[file]) != "llama":
        assert not {name for name in imports(file) if name.split(".")[0] == "flax"}


@pytest.mark.parametrize("file", [file for file, name in LIBRARY.items() if part(name) in NO_JAX], ids=lambda file: file.stem)
def test_the_host_side_imports_no_jax(file):
    assert not {name for name in imports(file) if name.split(".")[0] in FORBIDDEN}


EXECUTOR = modules("executor")


# What a part of the executor may use if it is installed: imported where it is called for, never with the package.
OPTIONAL = {"executor.console": {"rich"}, "executor.ray_pool": {"ray"}}


@pytest.mark.parametrize("file", EXECUTOR, ids=EXECUTOR.values())
def test_the_executor_imports_the_standard_library_and_itself(file):
    own = {"executor"} | {path.stem for path in (ROOT / "executor" / "worker").glob("*.py")}  # the worker imports by path
    optional = OPTIONAL.get(EXECUTOR[file], set())
    for name in imports(file):
        assert name.split(".")[0] in sys.stdlib_module_names | own | optional, f"{file} imports {name}"
    for statement in ast.parse(file.read_text()).body:
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            names = {alias.name for alias in statement.names} | {getattr(statement, "module", None) or ""}
            assert not {name.split(".")[0] for name in names} & optional, f"{file} always imports {sorted(optional)}"


def loaded_after(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(' '.join({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    return set(done.stdout.split())


def test_importing_the_host_side_does_not_load_jax():
    names = ", ".join(f"rlef_jax.{name}" for name in sorted(NO_JAX - {"report"}))
    loaded = loaded_after(f"import executor, {names}, rlef_jax.datasets.demonstrations, rlef_jax.datasets.mini_contest.problems")
    assert not loaded & FORBIDDEN
    assert "tensorflow" not in loaded


def test_importing_the_executor_loads_nothing_else():
    assert not loaded_after("import executor") & (FORBIDDEN | {"rlef_jax", "numpy", "absl", "ml_collections"})
