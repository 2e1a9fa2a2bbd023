"""A kubelet's PodResources socket: a real gRPC server that speaks the published messages.

The messages are described here as kubernetes/kubelet publishes them (pkg/apis/podresources/v1/api.proto) and made by
protobuf itself, so what the reader takes apart was put together by somebody else.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

grpc = pytest.importorskip("grpc", reason="grpcio is in requirements-dev.txt")
descriptor_pb2 = pytest.importorskip("google.protobuf.descriptor_pb2")

from google.protobuf import descriptor_pool, message_factory  # noqa: E402

_STRING, _INT64, _MESSAGE, _BOOL = 9, 3, 11, 8
_ONE, _MANY = 1, 3
_MESSAGES: dict[str, list[tuple[str, int, int, int, str]]] = {
    "ListPodResourcesRequest": [],
    "ListPodResourcesResponse": [("pod_resources", 1, _MESSAGE, _MANY, "PodResources")],
    "PodResources": [
        ("name", 1, _STRING, _ONE, ""),
        ("namespace", 2, _STRING, _ONE, ""),
        ("containers", 3, _MESSAGE, _MANY, "ContainerResources"),
    ],
    "ContainerResources": [
        ("name", 1, _STRING, _ONE, ""),
        ("devices", 2, _MESSAGE, _MANY, "ContainerDevices"),
        ("cpu_ids", 3, _INT64, _MANY, ""),
        ("memory", 4, _MESSAGE, _MANY, "ContainerMemory"),
    ],
    "ContainerMemory": [("memory_type", 1, _STRING, _ONE, ""), ("size", 2, 4, _ONE, "")],
    "ContainerDevices": [
        ("resource_name", 1, _STRING, _ONE, ""),
        ("device_ids", 2, _STRING, _MANY, ""),
        ("topology", 3, _MESSAGE, _ONE, "TopologyInfo"),
    ],
    "TopologyInfo": [("nodes", 1, _MESSAGE, _MANY, "NUMANode")],
    "NUMANode": [("ID", 1, _INT64, _ONE, "")],
}


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="podresources.proto", package="v1", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, label, type_name in fields:
            message.field.add(
                name=field, number=number, type=kind, label=label, type_name=f".v1.{type_name}" if type_name else None
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"v1.{name}")) for name in _MESSAGES}


CLASSES = _classes()
Pods = list[tuple[str, str, dict[str, dict[str, list[str]]]]]
"""(namespace, pod, container -> resource -> device ids)."""


def response(pods: Pods) -> Any:
    """Return a ListPodResourcesResponse with the fields beside those we want filled in too."""
    answer = CLASSES["ListPodResourcesResponse"]()
    for namespace, name, containers in pods:
        pod = answer.pod_resources.add(name=name, namespace=namespace)
        for container_name, resources in containers.items():
            container = pod.containers.add(name=container_name, cpu_ids=[0, 1, 300])
            container.memory.add(memory_type="memory", size=1 << 34)
            for resource, ids in resources.items():
                devices = container.devices.add(resource_name=resource, device_ids=ids)
                devices.topology.nodes.add(ID=1)
    return answer


class Kubelet:
    """What the server answers with, changeable while it runs; `silent` keeps a call waiting until it is set."""

    def __init__(self) -> None:
        self.pods: Pods = []
        self.code: Any = None
        self.answering = threading.Event()
        self.answering.set()
        self.calls = 0

    def list(self, _request: Any, context: Any) -> Any:
        self.calls += 1
        self.answering.wait(30)
        if self.code is not None:
            context.abort(self.code, "not now")
        return response(self.pods)


@contextmanager
def kubelet(socket: Path) -> Iterator[Kubelet]:
    """Serve on a unix socket."""
    known = Kubelet()
    handler = grpc.unary_unary_rpc_method_handler(
        known.list,
        request_deserializer=CLASSES["ListPodResourcesRequest"].FromString,
        response_serializer=lambda answer: answer.SerializeToString(),
    )
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("v1.PodResourcesLister", {"List": handler}),))
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    try:
        yield known
    finally:
        known.answering.set()
        server.stop(0).wait(5)
