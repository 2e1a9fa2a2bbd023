"""docs/coverage.md says what runs of the scenarios say: its shape whole, its cells by sample."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from gpuwarden.model.kinds import KINDS
from gpuwarden.sim.products import products

ROOT = Path(__file__).parents[2]


def generator() -> ModuleType:
    """Return the generator as a module."""
    spec = importlib.util.spec_from_file_location("generate_coverage", ROOT / "docs" / "generate_coverage.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATOR = generator()
TEXT = (ROOT / "docs" / "coverage.md").read_text("utf-8")
REASONS = dict(re.findall(r"^(\d+)\. (.*)$", TEXT, re.MULTILINE))
ROWS: dict[str, str] = dict(re.findall(r"^\| `(\S+)` \|(.*)\|$", TEXT, re.MULTILINE))
CELLS = {
    (kind, product): REASONS.get(each.strip(), each.strip())
    for kind, row in ROWS.items()
    if kind not in GENERATOR.NO_SCENARIO
    for product, each in zip(products(), row.split("|"), strict=True)
}
CHEAP = [kind for kind in GENERATOR.kinds() if GENERATOR.load(kind).seconds <= 200]
SAMPLE = [
    (kind, product)
    for place, kind in enumerate(CHEAP)
    for number, product in enumerate(products())
    if (place + 3 * number) % len(CHEAP) == 0 or (place % 12, number) == (5, place % len(products()))
]


def test_every_kind_has_a_row_and_every_product_a_column() -> None:
    """Those that no GPU has are named beneath, with the test that has them."""
    assert ROWS.keys() == KINDS.keys()
    assert f"| finding | {' | '.join(products())} |" in TEXT
    assert all((ROOT / test).exists() for _, test in GENERATOR.NO_SCENARIO.values())
    assert GENERATOR.NO_SCENARIO.keys() == KINDS.keys() - set(GENERATOR.kinds())


def test_every_cell_is_seen_or_has_its_reason() -> None:
    """And the page is what its own cells make of it."""
    assert set(CELLS.values()) == {GENERATOR.SEEN, *REASONS.values()}
    assert GENERATOR.page(CELLS) == TEXT, "make docs"


@pytest.mark.parametrize("kind", GENERATOR.kinds())
def test_every_kind_is_seen_somewhere(kind: str) -> None:
    """A finding that no product can have would be one that nobody ever tried."""
    assert GENERATOR.SEEN in {CELLS[kind, product] for product in products()}


@pytest.mark.parametrize(("kind", "product"), SAMPLE, ids=[f"{kind}-{product}" for kind, product in SAMPLE])
def test_a_cell_is_what_a_run_says(kind: str, product: str) -> None:
    """A fixed sample: every product, and kinds of every room. `make docs` runs them all."""
    assert GENERATOR.cell(kind, product) == CELLS[kind, product]
