"""docs/metrics.md says what is exposed."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from gpuwarden.exposition.native import families
from support.nodes import EXTRAS, PRODUCTS, gpu, incident, node, with_incidents

DOCS = Path(__file__).parents[2] / "docs"
_SPEC = importlib.util.spec_from_file_location("generate_metrics", DOCS / "generate.py")
assert _SPEC is not None
assert _SPEC.loader is not None
generate = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(generate)


def test_the_page_is_up_to_date() -> None:
    """After a change of a metric row: `make docs`."""
    assert (DOCS / "metrics.md").read_text(encoding="utf-8") == generate.metrics_page()


def test_every_family_is_on_the_page_with_its_type_and_labels() -> None:
    """Whatever a node exposes is described, as what it is."""
    cards = [gpu(index, product) for index, product in enumerate(PRODUCTS)]
    state = with_incidents(node(*cards), incident("presence.gpu_lost", cards[0].identity.uuid))
    rows = re.findall(r"^\| `(\S+)` \| (\w+) \| (.*?) \|", (DOCS / "metrics.md").read_text("utf-8"), re.MULTILINE)
    described = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert len(described) == len(rows)
    for metric in families(state, EXTRAS):
        name = metric.name + {"counter": "_total", "info": "_info"}.get(metric.type, "")
        kind, labels = described[name]
        assert kind == metric.type, name
        for sample in metric.samples:
            own = sample.labels.keys() - {"gpu", "uuid", "gi", "ci", "profile", "le"}
            assert own == labels - {"le"}, name
