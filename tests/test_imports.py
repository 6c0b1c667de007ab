"""The floors: an import goes to a lower floor or stays in its room; data and laws know no JAX, models know no mesh."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the ground up. A room may import what stands on a lower floor, itself, and the rooms that are listed as its wing;
# no module imports itself in a circle.
FLOORS = [
    {"transformer.errors", "transformer.chips"},
    {"transformer.paths", "transformer.params", "transformer.checks", "transformer.signals"},
    {"transformer.atomic"},
    {"transformer.tokenizers", "transformer.metrics"},
    {"transformer.data", "transformer.cluster", "transformer.parallel.rules", "transformer.parallel.mesh"},
    {"transformer.parallel.local"},  # what operations ask the mesh
    {"transformer.ops", "transformer.parallel.layout"},
    {"transformer.parallel"},
    {"transformer.layers", "transformer.objectives"},
    {"transformer.models"},
    {"transformer.adapters"},
    {"transformer.checkpoint"},
    {"transformer.transfer"},
    {"transformer.interop", "transformer.distillation"},
    {"transformer.training", "transformer.planning", "transformer.mup", "transformer.debugging"},
    {"transformer.inference", "transformer.sweeps"},
    {"transformer.scaling", "transformer.tasks"},
    {"transformer.command", "transformer.checkpoint_flags", "transformer.drawing", "configs"},
    {"train", "tools"},
]
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
# Rooms that share a floor and import each other: a run's step is planned, scaled by muP and watched for spikes; and
# what is planned is an experiment's step, and a learning rate's search and a replay are made of a session.
WINGS = [{"transformer.training", "transformer.planning", "transformer.mup", "transformer.debugging"}]
# The floors of the data room: what is neutral, each kind of data, and the modules that know all kinds.
NEUTRAL_DATA, *DATA_KINDS, DATA_ENTRY = [
    {
        *("transformer.data", "transformer.data.dataset", "transformer.data.records", "transformer.data.receipts"),
        *("transformer.data.pipeline", "transformer.data.generators", "transformer.data.selection"),
        *(
            "transformer.data.damaged",
            "transformer.data.grouping",
            "transformer.data.listed",
            "transformer.data.listing",
            "transformer.data.shuffle",
            "transformer.data.source",
            "transformer.data.splits",
            "transformer.data.worker",
            "transformer.data.workers",
            "transformer.data.bar",
            "transformer.data.tfds_datasets",
        ),
    },
    {"transformer.data.tokenized"},
    {"transformer.data.text"},
    {"transformer.data.pairs"},
    {"transformer.data.chats"},
    {"transformer.data.images"},
    {"transformer.data.audio"},
    {"transformer.data.examples"},
    {"transformer.data.prepare", "transformer.data.kinds"},
]
# What a room must never import, beyond the floors.
FORBIDDEN = {
    "transformer.cluster": {"flax", "optax", "orbax"},
    "transformer.ops": {"flax.linen", "optax", "orbax"},
    "transformer.layers": {"optax", "orbax", "transformer.cluster", "transformer.data", "transformer.tokenizers"},
    "transformer.models": {
        "optax", "orbax", "transformer.cluster", "transformer.data", "transformer.tokenizers", "transformer.objectives",
    },
    "configs": {"transformer.scaling"},
}  # fmt: skip
# What imports none of these, nor anything that does: it runs in processes, and on machines, without an accelerator.
WITHOUT_JAX = ("transformer.data", "transformer.tokenizers", "transformer.metrics", "transformer.scaling.laws")
JAX = {"jax", "flax", "optax", "orbax"}
# All that models and layers know of meshes: they name axes and ask for a layout by these names; attention and experts
# also ask for a computation over the mesh, and the stack whether it runs as a pipeline, and hands its layers over.
OF_PARALLEL = {"constrain", "check_names", "on_one_device", "RESIDUAL", "transformer.parallel.experts.dropless"}
OF_CONTEXT = {"transformer.parallel.context.attention_in_context", "transformer.parallel.context.CONTEXTS"}
OF_PIPELINE = {f"transformer.parallel.pipeline.{name}" for name in ("Pipeline", "pipeline_of")}
MESHES = {
    "Mesh", "AbstractMesh", "NamedSharding", "PartitionSpec", "P", "sharding", "set_mesh", "make_mesh", "shard_map",
    "pmap", "axis_index", "psum", "all_gather", "with_sharding_constraint", "device_put", "devices", "local_devices",
    "device_count", "local_device_count", "process_index", "process_count", "default_backend",
}  # fmt: skip


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return next((room for depth in (3, 2, 1) if (room := ".".join(parts[:depth])) in LEVEL), None)


def modules() -> dict[str, Path]:
    files = [*(ROOT / "transformer").rglob("*.py"), *(ROOT / "configs").rglob("*.py"), *(ROOT / "tools").glob("*.py")]
    files.append(ROOT / "train.py")
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def imports_of(path: Path, *, relative: bool = False) -> set[str]:
    """The modules that a file imports, and what it imports from them; with `relative`, it may import its siblings."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert relative or node.level == 0, f"{path}: relative import"
            if node.level > 0:
                continue
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


MODULES = modules()
# What each module imports of this project. A function's own imports count, and so do the packages that a module is in.
GRAPH = {
    module: {
        other
        for name in (module, *imports_of(path))
        for other in (name, *(str(parent).replace("/", ".") for parent in Path(name.replace(".", "/")).parents))
        if other in MODULES and other != module
    }
    for module, path in MODULES.items()
}
GRAPH["transformer"] = set()  # it imports `pipeline` for who asks for that; below it is tested that nothing else does


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"transformer"}))
def test_imports_go_down(module):
    room = room_of(module)
    assert room is not None, f"{module} stands in no room: give it a floor"
    for imported in imports_of(MODULES[module]):
        other = room_of(imported)
        if other is not None and other != room and not any({room, other} <= wing for wing in WINGS):
            assert LEVEL[other] < LEVEL[room], f"{module} imports {imported}, which is not on a lower floor"
        for name in FORBIDDEN.get(room, ()):
            assert not f"{imported}.".startswith(f"{name}."), f"{module} imports {imported}"


def test_neutral_data_knows_no_kind_of_data():
    floors = [NEUTRAL_DATA, *DATA_KINDS, DATA_ENTRY]

    def floor(module: str) -> int | None:
        file_or_room = ".".join(module.split(".")[:3])
        return next((level for level, names in enumerate(floors) if file_or_room in names), None)

    for module in sorted(name for name in MODULES if room_of(name) == "transformer.data"):
        own = floor(module)
        assert own is not None, f"{module} stands on no floor of the data room: give it one"
        for imported in imports_of(MODULES[module]):
            above = floor(imported)
            assert above is None or above <= own, f"{module} imports {imported}, which is not on a lower floor"
            if own == 0:
                assert room_of(imported) != "transformer.tokenizers", f"{module} is neutral and imports {imported}"


def test_tests_import_each_other_by_their_whole_names():
    """A bare `import runs` would be another package for the linter once a user has a folder `runs/`."""
    paths = list((ROOT / "tests").rglob("*.py"))
    bare = {path.stem for path in paths} | {path.parent.name for path in paths} - {"tests"}
    bare -= {"conftest", "__init__", "tokenizers"}  # the library
    for path in paths:
        assert not {name.partition(".")[0] for name in imports_of(path, relative=True)} & bare, path


def rooms(*names: str) -> list[str]:
    """The modules in some rooms."""
    return sorted(module for module in MODULES if any(f"{module}.".startswith(f"{name}.") for name in names))


@pytest.mark.parametrize("module", rooms("transformer.models", "transformer.layers"))
def test_models_know_no_mesh(module):
    of_parallel = {name for name in imports_of(MODULES[module]) if "transformer.parallel." in name}
    known = {name.removeprefix("transformer.parallel.rules.") for name in of_parallel}
    of_stack = OF_PIPELINE if module == "transformer.layers.execution" else set()
    assert known <= OF_PARALLEL | OF_CONTEXT | of_stack, module
    of_jax = {
        node.attr
        for node in ast.walk(ast.parse(MODULES[module].read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value).partition(".")[0] in ("jax", "nn")
    }
    assert not of_jax & MESHES, module


@pytest.mark.parametrize("module", rooms(*WITHOUT_JAX))
def test_some_rooms_need_no_jax(module):
    reached, ahead = {module}, [module]
    while ahead:
        new = GRAPH[ahead.pop()] - reached
        reached |= new
        ahead += new
    guilty = {other for other in reached if {name.partition(".")[0] for name in imports_of(MODULES[other])} & JAX}
    assert not guilty, f"{module} comes to {guilty}, which import JAX"


def test_the_package_itself_imports_nothing():
    code = "import sys, transformer; print(sorted({'jax', 'flax', 'numpy', 'transformer.tasks'} & {*sys.modules}))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert told.stdout == "[]\n"


def test_a_start_imports_nothing_heavy_that_it_may_not_need():
    """Each of these takes a tenth of a second or more: a room that needs it imports it where it does."""
    heavy = {"scipy", "tensorflow_datasets", "sklearn", "pandas", "pyarrow", "matplotlib", "transformers", "torch"}
    start = "train, transformer.training.loop, transformer.training.fitting"
    code = f"import sys, {start}; print(sorted({heavy} & {{*sys.modules}}))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert told.stdout == "[]\n"


def test_no_circles_within_a_room():
    graph = {
        module: {other for name in imports_of(path) for other in (name, name.rpartition(".")[0]) if other in MODULES}
        for module, path in MODULES.items()
    } | {"transformer": set()}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, f"a circle: {' -> '.join([*trail, module])}"
        if module in done:
            return
        for other in graph[module] - {module}:
            visit(other, (*trail, module))
        done.add(module)

    for module in graph:
        visit(module, ())
