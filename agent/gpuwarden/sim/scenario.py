"""Scenarios: what a simulated node is, what happens to it when, and what gpuwarden must come to. TOML, version 1.

Built-in ones lie in data/scenarios/, and one per finding kind with its healthy look-alike in data/scenarios/findings/;
an Xid without a file of its own there is the template's, with its code filled in.
A product spec such as `rtx4090x8` is a scenario in which nothing happens.
"""

from __future__ import annotations

import re
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

import msgspec

from gpuwarden.config import Config, from_document
from gpuwarden.errors import ConfigError, InputError
from gpuwarden.model.kinds import KINDS
from gpuwarden.model.xid import xid_findings
from gpuwarden.sim import faults
from gpuwarden.sim.card import REFERENCE_AMBIENT_CELSIUS, Load
from gpuwarden.sim.products import parse_spec, products
from gpuwarden.sim.world import World

_VERSION = 1
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
_ENDLESS_SECONDS = 60.0
_SCENARIOS = resources.files("gpuwarden.sim").joinpath("data", "scenarios")
_FINDINGS = _SCENARIOS.joinpath("findings")
_TEMPLATES = _SCENARIOS.joinpath("templates")
_LOOK_ALIKE = ".healthy"
_UNKNOWN_XID = 4711  # no catalogue has it


class _Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row of the file; a key it does not know is a mistake."""


class Step(_Row, frozen=True, kw_only=True):
    """One thing that happens: a fault comes, or with `clear` goes, `seconds` after the start. `say` is for people."""

    seconds: float
    say: str = ""
    fault: str
    gpu: int | None = None
    clear: bool = False
    options: dict[str, int | float | str] = {}


class Expect(_Row, frozen=True, kw_only=True):
    """What must have come `within_seconds` of the start: one of an incident of a kind, a kernel line that holds a text,
    a case in a state, or an action with an outcome.

    `gpu` is the index of the GPU it is about; None: of the host, or of any.
    """

    within_seconds: float
    incident: str = ""
    case: str = ""
    action: str = ""
    outcome: str = "done"
    gpu: int | None = None
    kernel: str = ""


class Work(_Row, frozen=True, kw_only=True):
    """What a card is given to do, by slot; the last row goes on for the rest. `draw`: its share of the power."""

    point: Literal["idle", "busy"] = "busy"
    intensity: float = 1.0
    draw: float = 1.0


class Remembered(_Row, frozen=True, kw_only=True):
    """What the journal remembers of one GPU when the scenario begins: a figure it reached for so many seconds.

    `figure` is `sm_clock_hertz`, or `workload:` and the name of a metric.
    """

    gpu: int
    figure: str
    value: float
    seconds: float = 86_400.0


class Scenario(_Row, frozen=True, kw_only=True):
    """One scenario. `product` is a spec; `mig` are the profiles that each card is cut into; `only_expected`: an
    incident that no row expects is a failure. `config` is how gpuwarden is configured here, as its file would say it.

    `throughput_metric`: the simulated work tells its own figure under this name, and it is judged.
    `inventory`: the journal knows all cards from an earlier boot (on virtual time; a daemon has its own journal).
    """

    version: int
    product: str
    name: str = ""
    title: str = ""
    seconds: float = _ENDLESS_SECONDS
    seed: int = 1
    ambient_celsius: float = REFERENCE_AMBIENT_CELSIUS
    only_expected: bool = True
    throughput_metric: str = ""
    inventory: bool = False
    config: dict[str, Any] = {}
    load: tuple[Work, ...] = ()
    mig: tuple[str, ...] = ()
    remembered: tuple[Remembered, ...] = ()
    at: tuple[Step, ...] = ()
    expect: tuple[Expect, ...] = ()


class Timeline:
    """A scenario's steps, handed out once each as their time comes."""

    def __init__(self, scenario: Scenario) -> None:
        self._left = sorted(scenario.at, key=lambda step: step.seconds)

    def play(self, world: World) -> None:
        """Do to the world what is due by now."""
        while self._left and self._left[0].seconds <= world.seconds:
            step = self._left.pop(0)
            if step.clear:
                world.clear(step.fault, step.gpu)
            else:
                world.inject(step.fault, step.gpu, step.options)


def builtin() -> tuple[str, ...]:
    """Return the names of the built-in scenarios."""
    return _names_in(_SCENARIOS)


def of_findings() -> tuple[str, ...]:
    """Return the names of the scenarios about one finding kind each: `<kind>`, and `<kind>.healthy` its look-alike."""
    return tuple(sorted({*_names_in(_FINDINGS), *_templated()}))


def _templated() -> dict[str, str]:
    """Return what every Xid's scenario and look-alike would be by the templates, as text by name."""
    found = {}
    for suffix in ("", _LOOK_ALIKE):
        template = _TEMPLATES.joinpath(f"xid{suffix}.toml").read_text("utf-8")
        for xid in xid_findings():
            code = str(xid.code or _UNKNOWN_XID)
            found[xid.kind + suffix] = template.replace("{code}", code).replace("{kind}", xid.kind)
    return found


def _names_in(folder: Traversable) -> tuple[str, ...]:
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")))


def load(spec: str) -> Scenario:
    """Return the scenario of a product spec, a built-in name or a file's path.

    Raises: InputError saying what is wrong with it, or what there is.
    """
    for folder in (_SCENARIOS, _FINDINGS):
        if spec in _names_in(folder):
            return parse(folder.joinpath(f"{spec}.toml").read_text("utf-8"), spec)
    if (text := _templated().get(spec) if spec.startswith("xid.") else None) is not None:
        return parse(text, spec)
    path = Path(spec)
    if path.suffix == ".toml" or "/" in spec:
        try:
            return parse(path.read_text("utf-8"), path.stem)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read scenario {spec}: {error}") from None
    try:
        parse_spec(spec)
    except InputError as error:
        raise InputError(f"{error}; or a scenario: {', '.join(builtin())}, or a file ending in .toml") from None
    return Scenario(version=_VERSION, product=spec, name=spec, only_expected=False)


def parse(text: str, name: str) -> Scenario:
    """Return a scenario from its text, every step tried on a node of its product. Raises: InputError with the row."""
    try:
        found = msgspec.toml.decode(text, type=Scenario)
    except msgspec.DecodeError as error:
        raise InputError(f"scenario {name}: {error}") from None
    if found.version != _VERSION:
        raise InputError(f"scenario {name}: version {found.version} is not {_VERSION}, the one this release reads")
    scenario = msgspec.structs.replace(found, name=found.name or name)
    _check(scenario)
    return scenario


def world_of(scenario: Scenario, **world_options: object) -> World:
    """Return the node a scenario begins with. Raises: InputError for its product."""
    short, count = parse_spec(scenario.product)
    product = products()[short]
    loads = [
        Load(product.busy if work.point == "busy" else "idle", work.intensity, draw=work.draw) for work in scenario.load
    ]
    return World(
        product,
        count,
        seed=scenario.seed,
        ambient_celsius=scenario.ambient_celsius,
        loads=loads,
        mig=scenario.mig,
        **world_options,  # type: ignore[arg-type]
    )


def config_of(scenario: Scenario) -> Config:
    """Return how gpuwarden is configured in a scenario. Raises: InputError with everything that is wrong with it."""
    try:
        return from_document(scenario.config)
    except ConfigError as error:
        raise InputError(f"scenario {scenario.name}: config: {error}") from None


def _check(scenario: Scenario) -> None:
    config_of(scenario)
    trial = world_of(scenario)
    for number, step in enumerate(scenario.at, 1):
        try:
            if step.clear:
                trial.clear(step.fault, step.gpu)
            else:
                trial.inject(step.fault, step.gpu, step.options)
        except InputError as error:
            raise InputError(f"scenario {scenario.name}: step {number}: {error}") from None
    for number, kept in enumerate(scenario.remembered, 1):
        if not 0 <= kept.gpu < len(trial.cards) or kept.value <= 0 or kept.seconds < 0:
            raise InputError(f"scenario {scenario.name}: remembered {number}: no such GPU, or no figure above 0")
    for number, row in enumerate(scenario.expect, 1):
        if sum(map(bool, (row.incident, row.kernel, row.case, row.action))) != 1:
            raise InputError(f"scenario {scenario.name}: expect {number}: one of incident, kernel, case, action")
        if row.incident and row.incident not in KINDS and not row.incident.startswith("xid.xid_"):
            raise InputError(f"scenario {scenario.name}: expect {number}: no kind is called {row.incident!r}")


def fault_names() -> tuple[str, ...]:
    """Return the names of the faults that a step can name."""
    return tuple(sorted(faults.FAULTS))
