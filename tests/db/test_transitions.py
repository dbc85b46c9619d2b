"""Changes of state: only declared transitions make one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from db.states import BatchState
from db.tables import Batch
from db.transitions import LIFECYCLES, BatchChange, TransitionNotAllowed, transitions

DB = Path(__file__).parent.parent.parent / "db"
#: Modules that declare, read or count states and never change one.
WITHOUT_CHANGES = ("migrations", "queries", "tables", "transitions.py", "problems.py", "counters.py")


def written_states(file: Path) -> Iterator[ast.expr]:
    """Yield the values that a module assigns to anything called `state`."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Attribute) and target.attr == "state" for target in targets):
                yield node.value or ast.Constant(None)
        elif isinstance(node, ast.keyword) and node.arg == "state":
            yield node.value
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "state":
                    yield value


def test_only_declared_transitions_change_a_state() -> None:
    found = 0
    for file in DB.rglob("*.py"):
        if not any(part in WITHOUT_CHANGES for part in file.relative_to(DB).parts):
            for value in written_states(file):
                found += 1
                assert isinstance(value, ast.Attribute), f"{file}:{value.lineno}"
                assert value.attr == "to", f"{file}:{value.lineno} writes a state that no transition declares"
    assert found > 5, "the search no longer finds the writes"


@pytest.mark.parametrize("lifecycle", LIFECYCLES, ids=lambda one: one.__name__)
def test_every_state_can_be_reached(lifecycle: type) -> None:
    declared = transitions(lifecycle).values()
    reached = {one.to for one in declared if not one.sources}
    while more := {one.to for one in declared if reached.intersection(one.sources)} - reached:
        reached |= more
    assert reached == set(type(next(iter(declared)).to))


def test_a_row_in_another_state_is_not_changed() -> None:
    batch = Batch(state=BatchState.DONE)
    with pytest.raises(TransitionNotAllowed):
        BatchChange.CANCEL.apply(batch)
    assert batch.state is BatchState.DONE
