from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from attnbench.errors import PluginError
from attnbench.registry import ENTRY_POINT_GROUP, Registry

GOOD = """
import attnbench

@attnbench.attention("{name}", options={{"block": 128}})
def kernel(q, k, v, *, mask, scale, block):
    "Does nothing well."
"""


def plugin(folder: Path, text: str, name: str = "plugin.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def discover(*plugins: Path, entry_points: tuple[EntryPoint, ...] = ()) -> Registry:
    return Registry.discover(plugins, entry_points=entry_points)


def error_of(*plugins: Path) -> str:
    with pytest.raises(PluginError) as caught:
        discover(*plugins)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_plugins_implementations_are_in_the_catalogue_with_their_origin(tmp_path: Path) -> None:
    path = plugin(tmp_path, GOOD.format(name="mine"))
    registry = discover(path)
    assert registry.catalogue() == [
        {
            "name": "mine",
            "operation": "attention",
            "framework": "torch",
            "summary": "Does nothing well.",
            "memory": "",
            "flops": "",
            "source": "",
            "compiles": False,
            "precision": "",
            "options": {"block": 128},
            "origin": str(path),
            "file": str(path),
        }
    ]
    assert registry.get("mine").options == {"block": 128}
    assert registry.problems == []


def test_the_installed_entry_point_brings_implementations_of_which_the_harness_knows_no_name() -> None:
    registry = Registry.discover()
    assert registry.problems == []
    assert registry.catalogue()
    assert {entry["origin"] for entry in registry.catalogue()} == {"attnbench_impls"}


def test_plugins_of_the_same_file_name_do_not_collide(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = plugin(tmp_path / "a", GOOD.format(name="one"))
    two = plugin(tmp_path / "b", GOOD.format(name="two"))
    assert [entry["name"] for entry in discover(one, two).catalogue()] == ["one", "two"]


def test_a_plugin_given_twice_is_loaded_once(tmp_path: Path) -> None:
    path = plugin(tmp_path, GOOD.format(name="mine"))
    assert len(discover(path, tmp_path / "." / path.name).catalogue()) == 1


def test_a_plugin_can_import_its_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "neighbour_of_a_plugin.py").write_text('NAME = "befriended"\n')
    text = "from neighbour_of_a_plugin import NAME\n" + GOOD.format(name="{name}").replace('"{name}"', "NAME")
    assert discover(plugin(tmp_path, text)).get("befriended")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1\nraise RuntimeError('no luck')\n", ":2 cannot be imported: RuntimeError: no luck"),
        ("\n\ndef f(:\n", ":3 cannot be imported: SyntaxError: invalid syntax"),
        ("import sys\nsys.exit(4)\n", ":2 cannot be imported: SystemExit: 4"),
        ("raise ValueError('x' * 9999)\n", f":1 cannot be imported: ValueError: {'x' * 299}…"),
        (
            "class Mute(Exception):\n    def __str__(self): return 1 / 0\nraise Mute\n",
            ":3 cannot be imported: Mute: (its text cannot be had: ZeroDivisionError)",
        ),
        ("raise KeyboardInterrupt\n", ":1 cannot be imported: KeyboardInterrupt: (no message)"),
        ("import not_a_module_at_all\n", "No module named 'not_a_module_at_all'"),
        ("x = 1\n", "declares no implementation; expected a function decorated with @attnbench.attention"),
        (
            "import attnbench\n@attnbench.attention('m', masks={'zigzag'})\ndef f(*x): ...",
            ":2 cannot be imported: ValueError: each of masks must be one of none, causal",
        ),
        (GOOD.format(name="a") + GOOD.format(name="a").replace("kernel", "other"), "declares 'a' twice"),
    ],
)
def test_a_bad_plugin_gives_one_line_naming_file_and_mistake(
    tmp_path: Path, text: str, expected: str
) -> None:
    path = plugin(tmp_path, text)
    message = error_of(path)
    assert expected in message
    assert str(path) in message


def test_a_failed_plugin_leaves_no_module_behind(tmp_path: Path) -> None:
    before = set(sys.modules)
    error_of(plugin(tmp_path, "raise ValueError\n"))
    assert not [name for name in set(sys.modules) - before if "plugin" in name]


@pytest.mark.parametrize("name", ["missing.py", "kernel.txt"])
def test_what_is_no_python_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "kernel.txt").write_text(GOOD.format(name="mine"))
    assert "expected the path of an existing .py file" in error_of(tmp_path / name)


def test_a_plugin_cannot_take_a_name_of_another(tmp_path: Path) -> None:
    first = plugin(tmp_path, GOOD.format(name="mine"), "first.py")
    second = plugin(tmp_path, GOOD.format(name="mine"), "second.py")
    message = error_of(first, second)
    assert f"the plug-in {second} declares 'mine', a name that {first} already has" in message


def test_a_plugin_cannot_take_a_built_in_name(tmp_path: Path) -> None:
    taken = Registry.discover().catalogue()[0]["name"]
    with pytest.raises(PluginError, match=f"declares '{taken}', a name that attnbench_impls already has"):
        Registry.discover([plugin(tmp_path, GOOD.format(name=taken))])


def test_a_plugin_may_import_an_implementation_without_declaring_it(tmp_path: Path) -> None:
    (tmp_path / "package_of_kernels.py").write_text(GOOD.format(name="theirs"))
    point = EntryPoint("theirs", "package_of_kernels", ENTRY_POINT_GROUP)
    text = "from package_of_kernels import kernel as base\n" + GOOD.format(name="mine")
    registry = Registry.discover([plugin(tmp_path, text)], entry_points=())
    assert {entry["name"] for entry in registry.catalogue()} == {"theirs", "mine"}
    registry = Registry.discover([plugin(tmp_path, text)], entry_points=[point])
    assert [(entry["name"], entry["origin"]) for entry in registry.catalogue()] == [
        ("theirs", "package_of_kernels"),
        ("mine", str(tmp_path / "plugin.py")),
    ]


def test_a_broken_entry_point_is_a_problem_and_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "breaks_at_import.py").write_text("import sys; sys.exit('gone')\n")
    (tmp_path / "has_nothing.py").write_text("")
    (tmp_path / "works.py").write_text(GOOD.format(name="works"))
    (tmp_path / "shadows.py").write_text(GOOD.format(name="works"))
    names = ("breaks_at_import", "has_nothing", "not_there_at_all", "works", "works_too")
    points = tuple(
        EntryPoint(name, "shadows" if name == "works_too" else name, ENTRY_POINT_GROUP) for name in names
    )
    registry = discover(entry_points=points)
    assert [entry["name"] for entry in registry.catalogue()] == ["works"]
    problems = "\n".join(registry.problems)
    assert len(registry.problems) == 4
    assert "breaks_at_import cannot be loaded: SystemExit: gone" in problems
    assert "has_nothing declares no implementation" in problems
    assert "not_there_at_all cannot be loaded: ModuleNotFoundError" in problems
    assert "declares 'works', a name that works already has; it is left out" in problems


def test_what_is_about_to_be_loaded_is_announced_first(tmp_path: Path) -> None:
    heard: list[str] = []
    path = plugin(tmp_path, "raise ValueError\n")
    with pytest.raises(PluginError):
        Registry.discover([path], on_load=heard.append, entry_points=())
    assert heard == [str(path)]


def test_an_unknown_name_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    registry = discover(plugin(tmp_path, GOOD.format(name="mine")))
    with pytest.raises(KeyError, match="there is no implementation 'yours' here; there are: mine"):
        registry.get("yours")
