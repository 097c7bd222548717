"""Who may import whom, read off the syntax trees, and checked once more in a running process."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent

# From the top down, a row a floor: a room (a file, or a wing) imports from its own row or those
# below it.
LAYERS = [
    {"train", "plan"},
    {"rlef", "sft"},
    {"report", "evaluation"},
    {"build"},
    {"rollout", "scripted"},
    {"ppo", "environment"},
    {"sampler", "learner", "trajectories", "episode"},
    {"llama", "tokenizer", "prompts", "datasets"},
    {"sharding", "config", "types"},
    {"runtime"},
]
DEPTH = {name: depth for depth, layer in enumerate(LAYERS) for name in layer}
MOST_FLAT_FILES = 16

# Rooms without jax; of wings that have some with it, those files that have none.
NO_JAX = {"episode", "prompts", "environment", "datasets", "tokenizer", "types", "trajectories"}
NO_JAX |= {"scripted", "config", "report"}
WITHOUT = ("estimators", "turns", "solve_rates", "clustering", "collection", "tables")
NO_JAX |= {f"evaluation.{name}" for name in WITHOUT}
NO_JAX |= {f"runtime.{name}" for name in ("files", "interrupt", "progress", "workdir")}
FORBIDDEN = {"jax", "jaxlib", "flax", "optax", "orbax"}

# What a part of the executor may use if it is installed: imported where it is called for, never
# with the package.
OPTIONAL = {"executor.commands.console": {"rich"}, "executor.ray_pool": {"ray"}}


def modules(package: str) -> dict[pathlib.Path, str]:
    """{file: its module name}."""
    files = sorted((ROOT / package).rglob("*.py"))
    return {
        file: ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for file in files
    }


def imports(file: pathlib.Path) -> set[str]:
    """What a file imports, also inside functions: `from a import b` gives a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


LIBRARY, EXECUTOR = modules("rlef_jax"), modules("executor")


def room(name: str) -> str | None:
    """The file or wing of the library that a dotted name belongs to: 'rlef_jax.llama.model' ->
    'llama'.
    """
    pieces = name.split(".")
    return pieces[1] if pieces[0] == "rlef_jax" and len(pieces) > 1 else None


def without_jax(module: str) -> bool:
    return room(module) in NO_JAX or module.removeprefix("rlef_jax.") in NO_JAX


def circle(imported: dict[str, set[str]]) -> list[str]:
    """Names that import each other, directly or through others: what is left when everything free
    has been taken away.
    """
    left = {name: others & set(imported) - {name} for name, others in imported.items()}
    while free := [name for name, others in left.items() if not others & set(left)]:
        for name in free:
            del left[name]
    return sorted(left)


def test_every_room_has_a_floor_and_few_are_flat():
    rooms = {room(name) for name in LIBRARY.values()} - {None}
    assert rooms <= set(DEPTH)
    assert len(list((ROOT / "rlef_jax").glob("*.py"))) <= MOST_FLAT_FILES


@pytest.mark.parametrize("file", LIBRARY, ids=LIBRARY.values())
def test_imports_run_downward(file):
    own = room(LIBRARY[file])
    for name in imports(file):
        assert name.split(".")[0] not in ("experiments", "notebooks", "tests"), (
            f"{file} imports {name}"
        )
        other = room(name)
        if own and other in DEPTH:
            assert DEPTH[other] >= DEPTH[own], f"{own} imports {other}, which lies above it"


def test_no_two_rooms_import_each_other():
    below = {name: set() for name in DEPTH}
    for file, module in LIBRARY.items():
        if own := room(module):
            below[own] |= {room(name) for name in imports(file)}
    assert not circle(below)


@pytest.mark.parametrize("files", [LIBRARY, EXECUTOR], ids=["rlef_jax", "executor"])
def test_no_two_files_import_each_other(files):
    # `from package import name` names the package, and loads it: that is no circle if the package
    # only collects names.
    collecting = {module for file, module in files.items() if file.name == "__init__.py"}
    assert not circle(
        {
            module: imports(file) - collecting
            for file, module in files.items()
            if module not in collecting
        }
    )


@pytest.mark.parametrize("file", LIBRARY, ids=LIBRARY.values())
def test_only_llama_imports_flax(file):
    if room(LIBRARY[file]) != "llama":
        assert not {name for name in imports(file) if name.split(".")[0] == "flax"}


@pytest.mark.parametrize("file", LIBRARY, ids=LIBRARY.values())
def test_the_library_knows_the_executor_by_its_face(file):
    face = {"executor"} | {f"executor.{name}" for name in __import__("executor").__all__}
    assert {name for name in imports(file) if name.split(".")[0] == "executor"} <= face


@pytest.mark.parametrize("file", LIBRARY, ids=LIBRARY.values())
def test_no_module_is_given_another_name(file):
    """`import x as xs` hides that a variable has taken the module's name. Short names of other
    libraries are usual.
    """
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in (
            "rlef_jax",
            "executor",
        ):
            assert not [alias.name for alias in node.names if alias.asname]


@pytest.mark.parametrize(
    "file",
    [file for file, name in LIBRARY.items() if without_jax(name)],
    ids=lambda file: file.stem,
)
def test_the_host_side_imports_no_jax(file):
    assert not {name for name in imports(file) if name.split(".")[0] in FORBIDDEN}


@pytest.mark.parametrize("file", EXECUTOR, ids=EXECUTOR.values())
def test_the_executor_imports_the_standard_library_and_itself(file):
    # imported by path
    own = {"executor"} | {path.stem for path in (ROOT / "executor" / "worker").glob("*.py")}
    optional = OPTIONAL.get(EXECUTOR[file], set())
    for name in imports(file):
        assert name.split(".")[0] in sys.stdlib_module_names | own | optional, (
            f"{file} imports {name}"
        )
    for statement in ast.parse(file.read_text()).body:
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            names = {alias.name for alias in statement.names} | {
                getattr(statement, "module", None) or ""
            }
            assert not {name.split(".")[0] for name in names} & optional, (
                f"{file} always imports {sorted(optional)}"
            )


def loaded_after(statement: str) -> set[str]:
    code = (
        f"{statement}; import sys; print(' '.join({{name.split('.')[0] for name in sys.modules}}))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    return set(done.stdout.split())


def test_importing_the_host_side_does_not_load_jax():
    names = ", ".join(f"rlef_jax.{name}" for name in sorted(NO_JAX - {"report"}))
    parts = "rlef_jax.datasets.demonstrations, rlef_jax.datasets.mini_contest.problems"
    loaded = loaded_after(f"import executor, {names}, {parts}")
    assert not loaded & FORBIDDEN
    assert "tensorflow" not in loaded


def test_importing_the_executor_loads_nothing_else():
    assert not loaded_after("import executor") & (
        FORBIDDEN | {"rlef_jax", "numpy", "absl", "ml_collections"}
    )
