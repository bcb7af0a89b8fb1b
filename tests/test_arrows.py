"""Imports point down only: which room of the library may know which other."""

from __future__ import annotations

import functools

import grimp
import pytest

LOW = {"errors", "paths", "seeds", "files", "progress"}
SETTINGS = LOW | {"core.corruption", "config", "profiles"}
TRAINED = SETTINGS | {"core", "data", "records", "run", "training"}
MAY_KNOW: dict[str, set[str]] = {
    "core": set(),
    "errors": set(),
    **dict.fromkeys(("paths", "seeds", "files", "progress"), LOW),
    "config": LOW | {"core.corruption", "core.baselines"},
    "profiles": SETTINGS,
    "records": SETTINGS,
    "data": SETTINGS,
    "run": SETTINGS | {"core", "data", "records"},
    "training": TRAINED,
    "evaluation": TRAINED,
    "paper": TRAINED | {"evaluation"},
    "beyond": TRAINED | {"evaluation"},
}
"""Room, or module at the top -> what it may import beside itself; ``__main__`` anything."""


@functools.cache
def graph(**options: bool) -> grimp.ImportGraph:
    """Who imports whom, also within functions, but not for type checkers alone."""
    options |= {"exclude_type_checking_imports": True}
    return grimp.build_graph("paperlib", cache_dir=None, **options)


def rooms() -> dict[str, list[str]]:
    """Room -> its modules."""
    found: dict[str, list[str]] = {}
    for module in sorted(graph().modules - {"paperlib", "paperlib.__main__"}):
        found.setdefault(module.split(".")[1], []).append(module)
    return found


def is_in(module: str, place: str) -> bool:
    return f"{module}.".startswith(f"paperlib.{place}.")


def test_every_module_has_its_room():
    assert rooms().keys() == MAY_KNOW.keys()


@pytest.mark.parametrize("room", MAY_KNOW)
def test_imports_point_down(room):
    places = MAY_KNOW[room] | {room}
    wrong = [
        f"{module} imports {other}"
        for module in rooms()[room]
        for other in sorted(graph().find_modules_directly_imported_by(module))
        if other != "paperlib" and not any(is_in(other, place) for place in places)
    ]
    assert not wrong


def test_the_paper_s_core_rests_on_torch_alone():
    known = graph(include_external_packages=True)
    outside = {n for m in rooms()["core"] for n in known.find_modules_directly_imported_by(m)}
    assert {name for name in outside if not name.startswith("paperlib")} <= {
        "torch", "__future__", "abc", "collections", "dataclasses", "functools", "math", "typing",
    }  # fmt: skip
