"""Whether an object is what Kubernetes publishes: its JSON schemas, strict, and what its validation adds to them."""

from __future__ import annotations

import functools
import re
from typing import Any

import jsonschema
import referencing
from kubernetes_validate import utils

VERSION = "1.37.0"
_LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


@functools.cache
def _validator(kind: str, api_version: str) -> jsonschema.Draft202012Validator:
    folder = f"kubernetes-json-schema/v{VERSION}-local-strict"
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    schema = utils.schema_contents(f"{folder}/{kind.lower()}-{group}.json", VERSION)
    definitions = utils.schema_contents(f"{folder}/_definitions.json", VERSION)
    registry = referencing.Resource.from_contents(definitions) @ (
        referencing.Resource.from_contents(schema) @ referencing.Registry()
    )
    return jsonschema.Draft202012Validator(schema, registry=registry)


def faults(body: dict[str, Any]) -> list[str]:
    """Return what is wrong with an object, nothing where the API server would take it."""
    api_version = "meta/v1" if body["kind"] == "DeleteOptions" else body["apiVersion"]
    found = [
        f"{'.'.join(map(str, error.path))}: {error.message}"
        for error in _validator(body["kind"], api_version).iter_errors(body)
    ]
    metadata = body.get("metadata") or {}
    for key, value in (metadata.get("labels") or {}).items():
        if not _KEY.fullmatch(key) or len(value) > 63 or not _LABEL_VALUE.fullmatch(value):
            found.append(f"metadata.labels: {key}={value!r}")
    found += [f"metadata.annotations: {key!r}" for key in metadata.get("annotations") or {} if not _KEY.fullmatch(key)]
    return found + _MORE.get(body["kind"], lambda _: [])(body)


def _node(body: dict[str, Any]) -> list[str]:
    taints = body.get("spec", {}).get("taints") or []
    found = [f"spec.taints: effect {taint['effect']}" for taint in taints if taint["effect"] not in _EFFECTS]
    for taint in taints:
        value = taint.get("value", "")
        if not _KEY.fullmatch(taint["key"]) or len(value) > 63 or not _LABEL_VALUE.fullmatch(value):
            found.append(f"spec.taints: {taint['key']}={value!r}")
    pairs = [(taint["key"], taint["effect"]) for taint in taints]
    return found + ["spec.taints: key and effect twice"] * (len(pairs) != len(set(pairs)))


def _lease(body: dict[str, Any]) -> list[str]:
    seconds = body.get("spec", {}).get("leaseDurationSeconds")
    return ["spec.leaseDurationSeconds: must be greater than 0"] if seconds is not None and seconds <= 0 else []


_MORE = {"Node": _node, "Lease": _lease}
