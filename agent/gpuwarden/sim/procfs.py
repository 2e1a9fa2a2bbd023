"""The simulated node's process file system: a folder tree in the form of /proc with the processes on its cards."""

from __future__ import annotations

import shutil
from pathlib import Path

from gpuwarden.sim.work import Process, proc_files, processes_of
from gpuwarden.sim.world import World

_HOST_NAMESPACE, _OTHER_NAMESPACE = "pid:[4026531836]", "pid:[4026532201]"
_INIT = Process(1, 0, False, "init", "/init.scope")


class ProcTree:
    """Writes `root` anew, then only what has changed."""

    def __init__(self, root: Path, world: World) -> None:
        self._root = root
        self._world = world
        self._known: dict[int, Process] = {}
        shutil.rmtree(root, ignore_errors=True)
        (root / "self" / "ns").mkdir(parents=True)
        self.update()

    def update(self) -> None:
        """Bring the tree up to date. Raises: OSError where it cannot be written."""
        self._namespace(_OTHER_NAMESPACE if self._world.node_knobs.pids_hidden else _HOST_NAMESPACE)
        here = {process.pid: process for card in self._world.cards for process in processes_of(card)}
        here[_INIT.pid] = _INIT
        for pid in self._known.keys() - here.keys():
            shutil.rmtree(self._root / str(pid))
        for pid, process in here.items():
            if self._known.get(pid) != process:
                folder = self._root / str(pid)
                folder.mkdir(exist_ok=True)
                for name, text in proc_files(process).items():
                    (folder / name).write_text(text, encoding="utf-8")
        self._known = here

    def _namespace(self, wanted: str) -> None:
        link = self._root / "self" / "ns" / "pid"
        if link.is_symlink() and str(link.readlink()) == wanted:
            return
        link.unlink(missing_ok=True)
        link.symlink_to(wanted)
