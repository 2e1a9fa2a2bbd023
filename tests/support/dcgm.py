"""What a dcgm body says, line by line and parsed."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from gpuwarden.exposition.dcgm import Dialect, default_dialect, render
from gpuwarden.exposition.dcgm_fields import Counter, keys
from gpuwarden.model.snapshot import NodeState


def every_counter() -> tuple[Counter, ...]:
    """Return every name there is, as a gauge."""
    return tuple(Counter(name=name, key=key, type="gauge", help="") for name, key in keys().items())


def counters(*names: str, kind: str = "gauge") -> tuple[Counter, ...]:
    """Return these names as rows of a counters file."""
    return tuple(Counter(name=name, key=keys()[name], type=kind, help="") for name in names)


def text(node: NodeState, dialect: Dialect | None = None) -> str:
    """Return the body; without a dialect in the default one, on host rig7."""
    return render(node, dialect or default_dialect("rig7")).decode()


def lines(node: NodeState, name: str, dialect: Dialect | None = None) -> list[str]:
    """Return the samples of one family; without a dialect, of that family alone."""
    chosen = dialect or Dialect(counters=counters(name), host="rig7")
    return [line for line in text(node, chosen).splitlines() if line.startswith(name + "{")]


def values(node: NodeState, *names: str) -> list[str]:
    """Return the values of families as they are printed, in order."""
    return [line.rpartition(" ")[2] for name in names for line in lines(node, name)]


def labels(line: str) -> dict[str, str]:
    """Return the labels of one sample line, parsed, in their order."""
    (family,) = text_string_to_metric_families(line + "\n")
    return dict(family.samples[0].labels)
