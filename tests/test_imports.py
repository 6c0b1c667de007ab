"""The floors: an import goes to a lower floor or stays in its room; data imports no JAX; models know no mesh."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the ground up. A room may import what stands on a lower floor, itself, and the rooms that are listed as its wing;
# no module imports itself in a circle.
FLOORS = [
    {"transformer.errors"},
    {"transformer.paths"},
    {"transformer.atomic"},
    {"transformer.tokenizers"},
    {"transformer.ops", "transformer.data", "transformer.sharding", "transformer.cluster", "transformer.params"},
    {"transformer.layers", "transformer.objectives"},
    {"transformer.models"},
    {"transformer.checkpoint"},
    {"transformer.transfer"},
    {"transformer.interop"},
    {"transformer.training", "transformer.mup", "transformer.debugging"},
    {"transformer.inference"},
    {"transformer.scaling"},
    {"transformer.command", "configs"},
    {"train", "tools"},
]
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
# Rooms that share a floor and import each other: a run's step is scaled by muP and watched for spikes, and a learning
# rate's search and a replay are made of a session.
WINGS = [{"transformer.training", "transformer.mup", "transformer.debugging"}]
# The floors of the data room: what is neutral, each kind of data, and the modules that know all kinds.
NEUTRAL_DATA, *DATA_KINDS, DATA_ENTRY = [
    {
        *("transformer.data", "transformer.data.dataset", "transformer.data.records", "transformer.data.receipts"),
        *("transformer.data.pipeline", "transformer.data.generators", "transformer.data.selection"),
        *("transformer.data.shuffle", "transformer.data.worker", "transformer.data.workers", "transformer.data.bar"),
    },
    {"transformer.data.text"},
    {"transformer.data.pairs"},
    {"transformer.data.prepare", "transformer.data.kinds"},
]
# What a room must never import, beyond the floors.
FORBIDDEN = {
    "transformer.data": {"jax", "flax", "optax", "orbax"},
    "transformer.tokenizers": {"jax", "flax", "optax", "orbax"},
    "transformer.cluster": {"flax", "optax", "orbax"},
    "transformer.ops": {"flax.linen", "optax", "orbax"},
    "transformer.layers": {"optax", "orbax"},
    "transformer.models": {"optax", "orbax"},
    "configs": {"transformer.scaling"},
}


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return next((room for room in (".".join(parts[:2]), parts[0]) if room in LEVEL), None)


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


def test_no_circles_within_a_room():
    graph = {
        module: {other for name in imports_of(path) for other in (name, name.rpartition(".")[0]) if other in MODULES}
        for module, path in MODULES.items()
    }
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
