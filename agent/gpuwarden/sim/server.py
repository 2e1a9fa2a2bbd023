"""The server of a simulated node, a process of its own: NVML answers, faults, kernel log and sysfs. It outlives the
worker, so that one that was killed finds the node as it left it.

`python -m gpuwarden.sim.server --spec rtx4090x8|SCENARIO --dir DIR [--speed X]`: serves DIR/sim.sock, writes DIR/kmsg,
DIR/sys, DIR/proc, DIR/units and DIR/boot_id, prints `ready`, and ends when its stdin does.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import socketserver
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import msgspec

from gpuwarden.errors import InputError
from gpuwarden.model.case import Intent
from gpuwarden.sim import host, sheet
from gpuwarden.sim.faults import FAULTS
from gpuwarden.sim.hands import Hands
from gpuwarden.sim.procfs import ProcTree
from gpuwarden.sim.scenario import Scenario, Timeline, load, world_of
from gpuwarden.sim.sysfs import SysfsTree, TextFile
from gpuwarden.sim.wire import (
    Ask,
    AskAround,
    AskCard,
    AskEvents,
    AskHands,
    AskNode,
    AskStatus,
    Brought,
    Inject,
    Reply,
    SetOn,
    TellCrash,
    receive,
    send,
)

_TICK_SECONDS = 0.1
_SYSFS_SECONDS = 0.5
_LONGEST_GAP_SECONDS = 10.0  # a machine that slept does not catch up on its sleep
_LONGEST_WAIT_SECONDS = 30.0
_NOTHING = msgspec.Raw(b"\xc0")


class Node:
    """A running world and its files. Every method may be called from any thread."""

    def __init__(self, scenario: Scenario, directory: Path, speed: float) -> None:
        self._scenario = scenario
        self._speed = speed
        self._changed = threading.Condition()
        self._world = world_of(scenario, printk=time.monotonic, wall=time.time)
        self._timeline = Timeline(scenario)
        self._timeline.play(self._world)  # what is so at second 0 was never otherwise
        self._told = 0
        self._last = time.monotonic()
        self._sysfs_at = 0.0
        self._kmsg = (directory / "kmsg").open("wb", buffering=0)
        self._sysfs = SysfsTree(directory / "sys", self._world)
        self._units = TextFile(directory / "units")
        self._procfs = ProcTree(directory / "proc", self._world)
        self._hands = Hands(self._world)
        self._boot_id_file = directory / "boot_id"
        self._boot()
        with self._changed:
            self._publish(everything=True)

    def _boot(self) -> str:
        """Make up a boot id, write it down for the daemon, and return it."""
        made = str(uuid.uuid4())
        self._boot_id_file.write_text(f"{made}\n", encoding="ascii")
        return made

    def live(self) -> None:
        """Let time pass, for ever."""
        while True:
            time.sleep(_TICK_SECONDS)
            self.tick(time.monotonic())

    def tick(self, now: float) -> None:
        """Let the world catch up with the clock, and play the scenario."""
        with self._changed:
            passed, self._last = min(now - self._last, _LONGEST_GAP_SECONDS), now
            left = passed * self._speed
            while left > 0:  # in portions, so that steps of the timeline come in time at any speed
                self._world.advance(min(left, _TICK_SECONDS))
                left -= _TICK_SECONDS
                self._timeline.play(self._world)
                self._hands.pass_time()
            self._publish(everything=now - self._sysfs_at >= _SYSFS_SECONDS)

    def answer(self, ask: Ask) -> Reply:
        """Return the answer to one message."""
        try:
            return Reply("", msgspec.Raw(msgspec.msgpack.encode(self._answer(ask))))
        except InputError as error:
            return Reply(str(error), _NOTHING)

    def _answer(self, ask: Ask) -> object:
        with self._changed:
            match ask:
                case AskNode():
                    return sheet.node_sheet(self._world)
                case AskCard():
                    return sheet.card_sheet(self._world, ask.slot)
                case AskEvents():
                    seconds = min(ask.seconds, _LONGEST_WAIT_SECONDS)
                    self._changed.wait_for(lambda: self._world.last_event > ask.after, seconds)
                    return self._world.events_after(ask.after)
                case AskStatus():
                    return self._status()
                case TellCrash():
                    self._world.crashed(ask.slot)
                    return None
                case SetOn():
                    return self._world.set_on(ask.slot, ask.function, ask.numbers)
                case Inject():
                    self._inject(ask)
                    return None
                case AskHands():
                    return self._bring_about(ask.intent)
                case AskAround():
                    return self._hands.look()

    def _bring_about(self, intent: Intent) -> Brought:
        outcome, detail = self._hands.ask(intent)
        boot_id = self._boot() if self._hands.rebooted else ""
        self._hands.rebooted = False
        self._publish(everything=True)
        return Brought(outcome, detail, boot_id)

    def _inject(self, ask: Inject) -> None:
        if ask.clear:
            self._world.clear(ask.fault, ask.gpu)
        else:
            self._world.inject(ask.fault, ask.gpu, ask.options)
        self._publish(everything=True)

    def _publish(self, *, everything: bool) -> None:
        """Write what is new in the kernel log, wake who waits for events, and perhaps bring sysfs up to date."""
        new, self._told = self._world.records[self._told :], len(self._world.records)
        if new:
            self._kmsg.write(b"".join(new))
        if everything:
            self._sysfs_at = time.monotonic()
            self._sysfs.update()
            self._units.update(host.shown(self._world))
            self._procfs.update()
        self._changed.notify_all()

    def _status(self) -> dict[str, Any]:
        world = self._world
        return {
            "scenario": self._scenario.name,
            "title": self._scenario.title,
            "product": world.product.name,
            "derived": world.product.derived,
            "gpus": len(world.cards),
            "seconds": round(world.seconds, 1),
            "speed": self._speed,
            "ambient_celsius": round(world.ambient_celsius, 1),
            "driver": world.driver_version if world.driver_loaded else "",
            "active": [{"fault": on.fault, "gpu": on.slot, "options": on.options} for on in world.active],
            "faults": {
                name: {"what": fault.what, "gpu": fault.gpu, "options": fault.options} for name, fault in FAULTS.items()
            },
        }


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """One thread per client."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, path: Path, node: Node) -> None:
        self.node = node
        super().__init__(str(path), _Client)


class _Client(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        """Answer one client until it goes."""
        connection: socket.socket = self.request
        with contextlib.suppress(OSError):  # a client that is killed in the middle is everyday life here
            while (ask := receive(connection, Ask)) is not None:  # type: ignore[arg-type]
                send(connection, self.server.node.answer(ask))


def serve(scenario: Scenario, directory: Path, speed: float) -> None:
    """Serve until stdin ends. Raises: OSError where the directory or socket cannot be used."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = directory / "sim.sock"
    path.unlink(missing_ok=True)
    node = Node(scenario, directory, speed)
    with _Server(path, node) as server:
        threading.Thread(target=node.live, name="world", daemon=True).start()
        threading.Thread(target=server.serve_forever, name="socket", daemon=True).start()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while os.read(0, 4096):
            pass
        path.unlink(missing_ok=True)
        sys.stdout.flush()
        os._exit(0)  # threads that wait for events are not waited for


def main() -> None:
    """Read the arguments and serve. A mistake is one line on stderr, exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m gpuwarden.sim.server")
    parser.add_argument("--spec", required=True, help="rtx4090x8, a built-in scenario, or a scenario file")
    parser.add_argument("--dir", required=True, type=Path, help="where socket, kernel log and sysfs are put")
    parser.add_argument("--speed", type=float, default=1.0, help="simulated seconds per second")
    arguments = parser.parse_args()
    try:
        if not 0 < arguments.speed <= 1000:
            raise InputError(f"--speed {arguments.speed:g}: above 0, and 1000 at most")
        serve(load(arguments.spec), arguments.dir, arguments.speed)
    except (InputError, OSError) as error:
        sys.exit(_refused(error))


def _refused(error: Exception) -> int:
    sys.stderr.write(f"{error}\n")
    return 2


if __name__ == "__main__":
    main()
