"""A host for the command line: its own directories and configuration, and what its daemon was asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from gpuwarden.cli import main
from gpuwarden.exposition.http import Verb
from support.webserver import Source


class Rig:
    """One host: run commands on it as its operator would."""

    def __init__(self, root: Path) -> None:
        self.runtime_dir = root / "run"
        self.state_dir = root / "state"
        self.runtime_dir.mkdir()
        self.config = root / "config.toml"
        self.config.write_text(f'runtime_dir = "{self.runtime_dir}"\nstate_dir = "{self.state_dir}"\n')
        self.config.chmod(0o600)
        self.source = Source()
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.answers: dict[str, Any] = {}

    def run(self, *arguments: str, input: str | None = None) -> Result:
        """Run `gpuwarden ...` with this host's configuration."""
        runner = CliRunner(env={"GPUWARDEN_CONFIG": str(self.config)})
        return runner.invoke(main, [*arguments], input=input)

    def json(self, *arguments: str) -> Any:
        """Return what a command prints with --format json."""
        result = self.run(*arguments, "--format", "json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def verb(self, name: str) -> Verb:
        """Return a verb that keeps what it was asked and answers what the test says."""

        async def asked(body: dict[str, Any]) -> Any:
            self.asked.append((name, body))
            answer = self.answers.get(name, {})
            if isinstance(answer, Exception):
                raise answer
            return await answer(body) if callable(answer) else answer

        return asked
