"""A real control plane on loopback for `make test-kubernetes`: etcd and kube-apiserver, then controllers and a kubelet.

    lab.py PROGRAMS

runs the tests of `tests/actuators/test_kubernetes.py` against the API server alone, where nothing changes but by them,
and then `hollow.py` with the controller manager, the scheduler and a hollow node: a real kubelet on a made-up runtime.
The agent's token is that of the service account to which deploy/kubernetes/rbac.yaml gives its rights.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
RBAC = HERE.parents[1] / "deploy" / "kubernetes" / "rbac.yaml"
_TOKENS = """admintoken,admin,1,"system:masters"
agenttoken,system:serviceaccount:gpuwarden:gpuwarden,2,"system:serviceaccounts"
"""
_PATHS = {
    "Namespace": "/api/v1/namespaces",
    "ServiceAccount": "/api/v1/namespaces/gpuwarden/serviceaccounts",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/gpuwarden/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/gpuwarden/rolebindings",
}
_UP_SECONDS = 60.0


class Lab:
    """The processes of a control plane, in one directory; ended with the context."""

    def __init__(self, programs: Path, folder: Path, stack: ExitStack) -> None:
        self.programs, self.folder, self._stack = programs, folder, stack
        self.ports = {name: _free_port() for name in ("etcd", "peer", "api", "manager", "scheduler", "kubelet", "read")}
        self.url = f"https://127.0.0.1:{self.ports['api']}"

    def start(self, name: str, *arguments: str) -> None:
        """Start a program; it is ended in reverse order, and what it says goes to a file."""
        program = self.programs / name
        log = self._stack.enter_context((self.folder / f"{name}.log").open("wb"))
        process = subprocess.Popen(
            [str(program) if program.exists() else name, *arguments], stdout=log, stderr=log, cwd=self.folder
        )
        self._stack.callback(_end, process)

    def serve(self) -> None:
        """Start etcd and the API server, and give the agent its rights."""
        (self.folder / "tokens.csv").write_text(_TOKENS)
        (self.folder / "url").write_text(self.url)
        key, public = self.folder / "sa.key", self.folder / "sa.pub"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        subprocess.run(["openssl", "rsa", "-in", key, "-pubout", "-out", public], check=True, capture_output=True)
        etcd, peer = (f"http://127.0.0.1:{self.ports[name]}" for name in ("etcd", "peer"))
        self.start(
            "etcd", "--name=lab", "--data-dir=etcd", f"--listen-client-urls={etcd}", f"--advertise-client-urls={etcd}",
            f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=lab={peer}",
            "--unsafe-no-fsync",
        )  # fmt: skip
        self.start(
            "kube-apiserver", f"--etcd-servers={etcd}", "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1",
            f"--secure-port={self.ports['api']}", "--cert-dir=certs", "--service-cluster-ip-range=10.0.0.0/24",
            "--service-account-issuer=https://lab", f"--service-account-signing-key-file={key}",
            f"--service-account-key-file={public}", "--token-auth-file=tokens.csv", "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction", "--disable-admission-plugins=ServiceAccount",
            "--allow-privileged=true",
        )  # fmt: skip
        self._until(lambda: self.ask("GET", "/readyz") is not None)
        for each in yaml.safe_load_all(RBAC.read_text("utf-8")):
            self.ask("POST", _PATHS[each["kind"]], each)

    def control(self) -> None:
        """Start the controllers, the scheduler and one hollow node, and wait until it is Ready."""
        config = self.folder / "admin.kubeconfig"
        config.write_text(json.dumps(_kubeconfig(self.url, self.folder / "certs" / "apiserver.crt")))
        self.start(
            "kube-controller-manager", f"--kubeconfig={config}", "--leader-elect=false", "--bind-address=127.0.0.1",
            "--controllers=*,-ttl,-cloud-node-lifecycle,-service,-route,-nodeipam", "--port=0", "--cert-dir=manager",
            f"--secure-port={self.ports['manager']}", f"--service-account-private-key-file={self.folder / 'sa.key'}",
        )  # fmt: skip
        self.start(
            "kube-scheduler", f"--kubeconfig={config}", "--leader-elect=false", "--bind-address=127.0.0.1", "--port=0",
            f"--secure-port={self.ports['scheduler']}", "--cert-dir=scheduler",
        )  # fmt: skip
        self.start(
            "kubemark", "--morph=kubelet", "--name=hollow-1", f"--kubeconfig={config}",
            f"--kubelet-port={self.ports['kubelet']}", f"--kubelet-read-only-port={self.ports['read']}",
        )  # fmt: skip
        self._until(self._hollow_is_ready)

    def _hollow_is_ready(self) -> bool:
        node = self.ask("GET", "/api/v1/nodes/hollow-1") or {}
        conditions = node.get("status", {}).get("conditions", [])
        return any((each["type"], each["status"]) == ("Ready", "True") for each in conditions)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Make an administrator's request; None where it is not answered with success."""
        crt = self.folder / "certs" / "apiserver.crt"
        if not crt.exists():
            return None
        headers = {"Authorization": "Bearer admintoken", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, headers=headers, method=method)
        trust = ssl.create_default_context(cafile=str(crt))
        try:
            with urllib.request.urlopen(request, timeout=10.0, context=trust) as answer:
                text = answer.read()
                return json.loads(text) if text.startswith(b"{") else text
        except urllib.error.HTTPError as error:
            if body is not None:
                raise AssertionError(f"{method} {path}: {error.code} {error.read()!r}") from None
            return None
        except (OSError, ssl.SSLError):
            return None

    def _until(self, done: Any) -> None:
        end = time.monotonic() + _UP_SECONDS
        while not done():
            if time.monotonic() > end:
                raise SystemExit(f"the control plane did not come up; see {self.folder}/*.log")
            time.sleep(0.2)

    def test(self, *files: str) -> int:
        """Run tests against this lab."""
        environ = {**os.environ, "GPUWARDEN_KUBERNETES": str(self.folder)}
        return subprocess.run([sys.executable, "-m", "pytest", "-v", *files], env=environ, check=False).returncode


def _kubeconfig(url: str, ca: Path) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": url, "certificate-authority": str(ca)}}],
        "users": [{"name": "u", "user": {"token": "admintoken"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main() -> int:
    """Run both parts, and return 0 where all of it passed."""
    with tempfile.TemporaryDirectory(prefix="gpuwarden-kubernetes-") as folder, ExitStack() as stack:
        lab = Lab(Path(sys.argv[1]).resolve(), Path(folder), stack)
        lab.serve()
        alone = lab.test("tests/actuators/test_kubernetes.py")
        lab.control()
        return alone or lab.test("tests/kubernetes/hollow.py")


if __name__ == "__main__":
    sys.exit(main())
