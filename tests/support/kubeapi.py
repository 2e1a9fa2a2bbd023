"""A small API server: the paths, verbs and rules of Kubernetes that gpuwarden relies on, in a thread.

What is asked for is held against the published schemas and the rules of `deploy/kubernetes/rbac.yaml`; what is written
must carry the resource version it was read with. Faults are put in its way one at a time.
"""

from __future__ import annotations

import copy
import itertools
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from support.kubeschema import faults

ADMIN, AGENT = "admin-token", "agent-token"
_PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/v1(?:beta1)?(?:/namespaces/(?P<space>[^/]+)(?=/))?"
    r"/(?P<resource>[a-z]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>[a-z]+))?"
)
_KINDS = {
    "nodes": "v1 Node",
    "pods": "v1 Pod",
    "leases": "coordination.k8s.io/v1 Lease",
    "poddisruptionbudgets": "policy/v1 PodDisruptionBudget",
}
_REASONS = {
    400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 409: "Conflict", 422: "Invalid",
    429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable",
}  # fmt: skip


class Refused(Exception):
    """A request that is answered with a Status."""

    def __init__(self, code: int, message: str, *, reason: str = "", retry_after: int | None = None) -> None:
        super().__init__(message)
        self.code, self.reason, self.retry_after = code, reason or _REASONS[code], retry_after


class Request(NamedTuple):
    """One request as it came."""

    verb: str
    group: str
    space: str
    resource: str  # with its subresource: nodes/status
    name: str
    query: dict[str, str]
    body: dict[str, Any] | None


class Fault(NamedTuple):
    """What happens to the next request of a verb and resource, once."""

    verb: str
    resource: str
    code: int = 0  # answered with this status, and nothing done
    cut: bool = False  # the connection ends without an answer
    hang: bool = False  # no answer, the connection stays
    landed: bool = False  # what was asked is done all the same
    first: Callable[[], None] | None = None  # somebody else comes between
    retry_after: int | None = None


class Hung(Exception):
    """No answer will be given."""


class FakeApi:
    """The server's state and its rules. `rules` are what the agent's token may do; None: everything."""

    def __init__(self, rules: list[tuple[str, dict[str, Any]]] | None = None) -> None:
        self.rules = rules
        self.tokens = {ADMIN: "admin", AGENT: "agent"}
        self.requests: list[Request] = []
        self.used: set[tuple[str, str, str]] = set()
        self.faults: list[Fault] = []
        self.spaces = {"default", "gpuwarden"}
        self.ended = threading.Event()
        self._lock = threading.RLock()
        self._stored: dict[tuple[str, str, str], dict[str, Any]] = {}
        self._versions = itertools.count(1000)

    # ---- a request

    def answer(self, token: str, method: str, path: str, media: str, raw: bytes) -> tuple[int, dict[str, Any]]:
        """Return status and body. Raises: Refused, Hung."""
        who = self.tokens.get(token)
        if who is None:
            raise Refused(401, "Unauthorized")
        parts = urlsplit(path)
        if parts.path == "/api/v1":
            return 200, _DISCOVERY
        request = _request(method, parts.path, parts.query, raw)
        fault = self._fault(request) if who == "agent" else None
        if fault is not None and fault.first is not None:
            fault.first()
            fault = None
        if fault is not None and not fault.landed:
            _fail(fault)
        with self._lock:
            done = self._do(request, media)
        if fault is not None:
            _fail(fault)
        return done

    def _fault(self, request: Request) -> Fault | None:
        """Note a request of the agent's, and return what is in its way. Raises: Refused."""
        with self._lock:
            self.requests.append(request)
            self._authorise(request)
            wanted = (request.verb, request.resource)
            found = next((fault for fault in self.faults if (fault.verb, fault.resource) == wanted), None)
            if found is not None:
                self.faults.remove(found)
            return found

    def _authorise(self, request: Request) -> None:
        if self.rules is None:
            return
        for space, rule in self.rules:
            if space not in ("", request.space) or request.group not in rule["apiGroups"]:
                continue
            if request.resource in rule["resources"] and request.verb in rule["verbs"]:
                self.used.add((request.group, request.resource, request.verb))
                return
        user = "system:serviceaccount:gpuwarden:gpuwarden"
        raise Refused(403, f'{request.resource} is forbidden: User "{user}" cannot {request.verb} it')

    def _do(self, request: Request, media: str) -> tuple[int, dict[str, Any]]:
        match request.verb, request.resource:
            case "create", "pods/eviction":
                return 201, self._evict(request)
            case "create", resource if resource in _KINDS:
                return 201, self._create(request)
            case "get", _:
                return 200, copy.deepcopy(self._get(request))
            case "list", _:
                return 200, self._list(request)
            case "patch", _:
                return 200, self._patch(request, media)
            case "delete", _:
                return 200, self._delete(request)
        raise Refused(404, f"the server could not find the requested resource: {request}")

    # ---- verbs

    def _key(self, request: Request) -> tuple[str, str, str]:
        return request.resource.partition("/")[0], request.space, request.name

    def _get(self, request: Request) -> dict[str, Any]:
        found = self._stored.get(self._key(request))
        if found is None:
            raise Refused(404, f'{request.resource} "{request.name}" not found')
        return found

    def _create(self, request: Request) -> dict[str, Any]:
        body = copy.deepcopy(request.body)
        assert body is not None
        if request.space and request.space not in self.spaces:
            raise Refused(404, f'namespaces "{request.space}" not found')
        if f"{body.get('apiVersion')} {body.get('kind')}" != _KINDS[request.resource]:
            raise Refused(400, f"this is no {_KINDS[request.resource]}")
        name = body["metadata"]["name"]
        if request.space:
            body["metadata"]["namespace"] = request.space
        key = (request.resource, request.space, name)
        if key in self._stored:
            raise Refused(409, f'{request.resource} "{name}" already exists', reason="AlreadyExists")
        self._store(key, body, uid=f"uid-{next(self._versions)}")
        return copy.deepcopy(self._stored[key])

    def _store(self, key: tuple[str, str, str], body: dict[str, Any], *, uid: str) -> None:
        body["metadata"] |= {"uid": uid, "resourceVersion": str(next(self._versions))}
        body["metadata"].setdefault("creationTimestamp", "2026-01-01T00:00:00Z")
        if wrong := faults(body):
            raise Refused(422, f'{key[0]} "{key[2]}" is invalid: {"; ".join(wrong)}')
        self._stored[key] = body

    def _list(self, request: Request) -> dict[str, Any]:
        kept = [body for key, body in sorted(self._stored.items()) if key[0] == request.resource]
        kept = [body for body in kept if request.space in ("", body["metadata"].get("namespace", ""))]
        for selector, read in (("labelSelector", _label), ("fieldSelector", _field)):
            for clause in filter(None, request.query.get(selector, "").split(",")):
                name, _, value = clause.partition("=")
                kept = [body for body in kept if read(body, name) == value]
        begin, limit = int(request.query.get("continue", "0")), int(request.query.get("limit", "500"))
        more = {"continue": str(begin + limit)} if len(kept) > begin + limit else {}
        items = copy.deepcopy(kept[begin : begin + limit])
        return {"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1", **more}, "items": items}

    def _patch(self, request: Request, media: str) -> dict[str, Any]:
        old, change = self._get(request), request.body
        assert change is not None
        told = change.get("metadata", {})
        version = old["metadata"]["resourceVersion"]
        if told.get("uid", old["metadata"]["uid"]) != old["metadata"]["uid"]:
            raise Refused(409, "Precondition failed: UID in precondition")
        if told.get("resourceVersion", version) != version:
            raise Refused(409, f'Operation cannot be fulfilled on {request.resource} "{request.name}": it was modified')
        merged = _merged(old, change, strategic="strategic" in media)
        kept = "status" if request.resource.endswith("/status") else "spec"
        other = "spec" if kept == "status" else "status"
        if other in old:
            merged[other] = copy.deepcopy(old[other])
        else:
            merged.pop(other, None)
        for taint in (merged.get("spec") or {}).get("taints", ()):
            if taint.get("effect") == "NoExecute":
                taint.setdefault("timeAdded", "2026-01-01T00:00:00Z")
        self._store(self._key(request), merged, uid=old["metadata"]["uid"])
        self._place_daemon_sets()
        return copy.deepcopy(merged)

    def _delete(self, request: Request) -> dict[str, Any]:
        found, body = self._get(request), request.body or {}
        if body and (wrong := faults(body)):
            raise Refused(422, "; ".join(wrong))
        for name, value in body.get("preconditions", {}).items():
            if found["metadata"][name] != value:
                raise Refused(409, f"Precondition failed: {name} in precondition: {value}")
        del self._stored[self._key(request)]
        return {"kind": "Status", "apiVersion": "v1", "status": "Success"}

    def _evict(self, request: Request) -> dict[str, Any]:
        body = request.body
        assert body is not None
        if wrong := faults(body):
            raise Refused(422, "; ".join(wrong))
        pod = self._get(request)
        wanted = body.get("deleteOptions", {}).get("preconditions", {}).get("uid", pod["metadata"]["uid"])
        if wanted != pod["metadata"]["uid"]:
            raise Refused(409, "Precondition failed: UID in precondition")
        for budget in self._budgets(pod):
            if budget.get("status", {}).get("disruptionsAllowed", 0) <= 0:
                raise Refused(429, "Cannot evict pod as it would violate the pod's disruption budget.")
            budget["status"]["disruptionsAllowed"] -= 1
        pod["metadata"]["deletionTimestamp"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {"kind": "Status", "apiVersion": "v1", "status": "Success", "code": 201}

    def _budgets(self, pod: dict[str, Any]) -> list[dict[str, Any]]:
        labels = (pod["metadata"].get("labels") or {}).items()
        budgets = [body for key, body in self._stored.items() if key[0] == "poddisruptionbudgets"]
        return [body for body in budgets if body["spec"]["selector"]["matchLabels"].items() <= labels]

    def _place_daemon_sets(self) -> None:
        """Take away the pods of DaemonSets whose node lost the labels they ask for, as their controller does."""
        nodes = {key[2]: body["metadata"].get("labels", {}) for key, body in self._stored.items() if key[0] == "nodes"}
        for key, pod in list(self._stored.items()):
            owners = {owner["kind"] for owner in pod["metadata"].get("ownerReferences", ())}
            wanted = pod.get("spec", {}).get("nodeSelector", {})
            there = nodes.get(pod.get("spec", {}).get("nodeName", ""), {})
            if key[0] == "pods" and "DaemonSet" in owners and not wanted.items() <= there.items():
                del self._stored[key]


_DISCOVERY = {
    "kind": "APIResourceList",
    "groupVersion": "v1",
    "resources": [
        {"name": "nodes", "kind": "Node", "verbs": ["get"]},
        {"name": "pods/eviction", "group": "policy", "version": "v1", "kind": "Eviction", "verbs": ["create"]},
    ],
}


def _request(method: str, path: str, query: str, raw: bytes) -> Request:
    match = _PATH.fullmatch(path)
    if match is None:
        raise Refused(404, f"the server could not find the requested resource: {path}")
    name, sub = unquote(match["name"] or ""), match["sub"]
    verbs = {"GET": "get" if name else "list", "POST": "create", "PATCH": "patch", "DELETE": "delete"}
    return Request(
        verb=verbs[method],
        group=match["group"] or "",
        space=match["space"] or "",
        resource=match["resource"] + (f"/{sub}" if sub else ""),
        name=name,
        query={key: values[0] for key, values in parse_qs(query).items()},
        body=json.loads(raw) if raw else None,
    )


def _fail(fault: Fault) -> None:
    if fault.code:
        raise Refused(fault.code, "put in the way", retry_after=fault.retry_after)
    raise Hung("hang" if fault.hang else "cut")


def _merged(old: dict[str, Any], change: dict[str, Any], *, strategic: bool) -> dict[str, Any]:
    """Return an object after a merge patch (RFC 7386); strategic, conditions are merged by their type."""
    new = copy.deepcopy(old)
    for key, value in change.items():
        if value is None:
            new.pop(key, None)
        elif strategic and key == "conditions":
            new[key] = _merged_conditions(new.get(key) or [], value)
        elif isinstance(value, dict):
            new[key] = _merged(new.get(key) or {}, value, strategic=strategic)
        else:
            new[key] = copy.deepcopy(value)
    return new


def _merged_conditions(old: list[dict[str, Any]], change: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kept = {each["type"]: each for each in old}
    for each in change:
        if each.get("$patch") == "delete":
            kept.pop(each["type"], None)
        else:
            kept[each["type"]] = {**kept.get(each["type"], {}), **each}
    return list(kept.values())


def _label(body: dict[str, Any], name: str) -> str | None:
    return (body["metadata"].get("labels") or {}).get(name)


def _field(body: dict[str, Any], name: str) -> str | None:
    assert name == "spec.nodeName"
    return body.get("spec", {}).get("nodeName", "")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer goes out in one piece
    api: FakeApi

    def _serve(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        retry_after = None
        try:
            code, body = self.api.answer(token, self.command, self.path, self.headers.get("Content-Type", ""), raw)
        except Refused as error:
            code, retry_after = error.code, error.retry_after
            body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": str(error),
                    "reason": error.reason, "code": error.code}  # fmt: skip
        except Hung as error:
            if str(error) == "hang":
                self.api.ended.wait(30.0)
            self.close_connection = True
            return
        text = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        if retry_after is not None:
            self.send_header("Retry-After", str(retry_after))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PATCH = do_DELETE = _serve

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


@contextmanager
def served(api: FakeApi) -> Iterator[str]:
    """Serve an API on a free port of this machine and yield its URL."""
    handler = type("Handler", (_Handler,), {"api": api})
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        api.ended.set()
        server.shutdown()
        server.server_close()
        thread.join(5.0)
