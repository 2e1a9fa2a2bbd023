"""docs/dcgm.md is what its generator writes, and gives every field a source or a reason."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from gpuwarden.exposition.dcgm_fields import fields

DOCS = Path(__file__).parents[2] / "docs"


def generator() -> ModuleType:
    """Return the generator as a module."""
    spec = importlib.util.spec_from_file_location("generate_dcgm", DOCS / "generate_dcgm.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATOR = generator()


def test_the_page_is_current() -> None:
    """`make docs` would change nothing."""
    text = (DOCS / "dcgm.md").read_text(encoding="utf-8")
    assert GENERATOR.page(text) == text
    assert text.count("<!-- end -->") == len(GENERATOR.blocks())


@pytest.mark.parametrize("name", [name for name, field in fields().items() if field.obtainable.startswith("yes")])
def test_what_nvml_has_is_shown(name: str) -> None:
    """Every field that is obtainable without DCGM has a source; what is left to findings or topology tools says so."""
    assert GENERATOR.has_source(name) or name == "DCGM_EXP_P2P_STATUS"


def test_everything_else_has_a_reason() -> None:
    """No field is without a source for no reason."""
    for name in (*fields(), *GENERATOR.canonical_names()):
        assert GENERATOR.has_source(name) or GENERATOR.reason(name)
