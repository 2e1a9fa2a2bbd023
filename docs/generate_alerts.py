"""Writes deploy/prometheus/gpuwarden.kinds.yml from the catalogue of finding kinds: `make docs`.

The text of every alert asks it for title and meaning, so that a page cannot say something else than the agent does.
"""

from __future__ import annotations

import json
from pathlib import Path

from gpuwarden.model.kinds import KINDS

KIND_RULES = Path(__file__).parents[1] / "deploy" / "prometheus" / "gpuwarden.kinds.yml"


def kind_rules() -> str:
    """Return a rule file that records title and meaning of every kind."""
    rules = (
        f"      - {{record: gpuwarden_kind_info, expr: vector(1), labels: {{kind: {kind.name}, "
        f"title: {json.dumps(kind.title)}, meaning: {json.dumps(kind.meaning)}}}}}"
        for kind in KINDS.values()
    )
    return "\n".join(
        (
            "# What every finding means, for the text of alerts. Written by `make docs`.",
            "groups:",
            "  - name: gpuwarden-kinds",
            "    rules:",
            *rules,
            "",
        )
    )


if __name__ == "__main__":
    KIND_RULES.write_text(kind_rules(), encoding="utf-8")
