"""What can be configured: one record per section, each key with its type, range and default.

The keys are a contract: renaming one is a [CHANGE]. A key of `NOT_USED_YET` is accepted and checked like any other,
and named as having no effect wherever it is set to something else than its default.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gpuwarden.model.severity import Severity

SYSTEM_STATE_DIR = "/var/lib/gpuwarden"
SYSTEM_RUNTIME_DIR = "/run/gpuwarden"

Ratio = Annotated[float, Meta(ge=0.0, le=1.0)]
Seconds = Annotated[float, Meta(ge=0.0, le=31_536_000.0)]
Celsius = Annotated[float, Meta(ge=20.0, le=150.0)]
Count = Annotated[int, Meta(ge=0, le=1_000_000)]
ActionMode = Literal["shadow", "approve", "enforce"]


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all sections: frozen, keyword only, unknown keys refused."""


class Host(_Section, frozen=True, kw_only=True):
    """Names this host carries: labels as service discovery sets them, and slot names by BDF."""

    labels: dict[str, str] = {}
    slots: dict[str, str] = {}


class Poll(_Section, frozen=True, kw_only=True):
    """How often NVML is asked, how long a call may take, and how long a GPU is left alone after a fatal Xid."""

    fast_seconds: Annotated[float, Meta(ge=0.1, le=60.0)] = 1.0
    normal_seconds: Annotated[float, Meta(ge=0.1, le=3600.0)] = 10.0
    slow_seconds: Annotated[float, Meta(ge=0.1, le=86_400.0)] = 60.0
    deadline_seconds: Annotated[float, Meta(ge=0.1, le=120.0)] = 5.0
    pcie_throughput_seconds: Annotated[float, Meta(ge=0.1, le=3600.0)] = 10.0
    quiet_seconds: Annotated[float, Meta(ge=0.0, le=86_400.0)] = 300.0


class Web(_Section, frozen=True, kw_only=True):
    """The HTTP server: addresses, and a file in the format of Prometheus' exporter toolkit."""

    listen: tuple[str, ...] = (":9878",)
    config_file: str = ""


class Exposition(_Section, frozen=True, kw_only=True):
    """Which metric dialects are served.

    Of dcgm-exporter's: a counters file ("" is its default set), the host's label ("" leaves it out), the directory in
    which Slurm's prolog writes a file of job ids per GPU, and `-` for each blank in model names.
    """

    native: bool = True
    dcgm: bool = False
    dcgm_counters: str = ""
    dcgm_host_label: Literal["Hostname", "hostname", ""] = "Hostname"
    dcgm_hpc_job_mapping_dir: str = ""
    dcgm_replace_blanks_in_model_name: bool = False
    processes: bool = False


class Thermal(_Section, frozen=True, kw_only=True):
    """Limits for the core temperature ("auto" takes the card's own), and the heat governor."""

    core_limit_celsius: Celsius | Literal["auto"] = "auto"
    governor: bool = False
    target_celsius: Celsius | Literal["auto"] = "auto"
    lease_linger_seconds: Seconds = 900.0


class Actions(_Section, frozen=True, kw_only=True):
    """How far each kind of action may go; `mode` is the ceiling of all."""

    mitigate: ActionMode = "enforce"
    isolate: ActionMode = "enforce"
    evict: ActionMode = "approve"
    stop_workload: ActionMode = "approve"
    reset: ActionMode = "approve"
    reboot: ActionMode = "approve"
    command: ActionMode = "approve"


class Guards(_Section, frozen=True, kw_only=True):
    """What holds an action back."""

    stop_paths: tuple[str, ...] = ("/etc/gpuwarden/stop",)
    stop_query: str = ""
    boot_grace_seconds: Seconds = 300.0
    min_uptime_before_reboot_seconds: Seconds = 3600.0
    maintenance_windows: tuple[str, ...] = ()
    correlated_ratio: Ratio = 0.02


class Isolation(_Section, frozen=True, kw_only=True):
    """How work is kept away from a sick host.

    Of Kubernetes: the kubeconfig ("" is the service account of the pod the actuator is in), and the namespace of the
    fleet's slots. Of Slurm: its slurm.conf ("" is where its tools look by themselves).
    """

    backend: Literal["none", "slurm", "kubernetes", "systemd", "command"] = "none"
    node_name: str = "auto"
    units: tuple[str, ...] = ()
    command: str = ""
    deadline_seconds: Seconds = 3600.0
    on_deadline: Literal["hold", "requeue", "cancel", "evict"] = "hold"
    cordon: bool = False
    kubeconfig: str = ""
    namespace: Annotated[str, Meta(pattern="^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")] = "gpuwarden"
    slurm_conf: str = ""


class Budget(_Section, frozen=True, kw_only=True):
    """How much may be done, on this host and in the fleet."""

    per_gpu_actions_per_day: Count = 3
    per_host_reboots_per_day: Count = 1
    fleet_max_hosts: Count | Literal["unset"] = "unset"
    fleet_max_ratio: Ratio | Literal["unset"] = "unset"
    fleet_max_held_hosts: Count = 5
    slot_rest_seconds: Seconds = 1800.0
    fleet_guard: Literal["unset", "none"] = "unset"
    prometheus_url: str = ""


class Actuator(_Section, frozen=True, kw_only=True):
    """The privileged half: hosted by the daemon itself, or reached through its socket.

    Who may ask it beside root, where it looks for programs, and the units that are paused for a GPU reset because they
    hold every GPU open (dcgm, another exporter): they are no work.
    """

    inline: bool = False
    socket: str = "/run/gpuwarden-actuator/actuator.sock"
    user: str = "gpuwarden"
    path: str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    pause_units: tuple[str, ...] = ()


class Load(_Section, frozen=True, kw_only=True):
    """The gate of every "under load" rule: this busy, for this long."""

    utilization_ratio: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.9
    settle_seconds: Annotated[float, Meta(ge=0.0, le=3600.0)] = 60.0


class Workload(_Section, frozen=True, kw_only=True):
    """Where a figure of the real work is read: hashes, tokens or frames a second, for each GPU.

    `throughput_metric` is the name of a metric in the Prometheus text format (a counter is turned into a rate), or a
    path in a JSON answer, its parts joined by dots. A GPU is named by a label or key `uuid`, `gpu`, `device` or the
    like, or by its place in a JSON list.

    `pod_resources_socket` is where the kubelet says whose the GPUs are ("": it is not asked).
    """

    throughput_url: str = ""
    throughput_metric: str = ""
    pod_resources_socket: str = "/var/lib/kubelet/pod-resources/kubelet.sock"


class CheckOverride(_Section, frozen=True, kw_only=True):
    """What an operator may change about one finding kind; None keeps the catalogue's default.

    `thresholds` holds the kind's own keys. In the file they stand in the kind's table, beside `hold_seconds`.
    """

    enabled: bool = True
    severity: Severity | None = None
    hold_seconds: Seconds | None = None
    clear_seconds: Seconds | None = None
    latch_seconds: Seconds | None = None
    thresholds: dict[str, float] = {}


class Config(_Section, frozen=True, kw_only=True):
    """The effective configuration; defaults are the product's."""

    mode: Literal["shadow", "enforce"] = "shadow"
    state_dir: str = SYSTEM_STATE_DIR
    runtime_dir: str = SYSTEM_RUNTIME_DIR
    expected_gpus: Annotated[int, Meta(ge=0, le=1024)] = 0
    host: Host = Host()
    poll: Poll = Poll()
    web: Web = Web()
    exposition: Exposition = Exposition()
    thermal: Thermal = Thermal()
    actions: Actions = Actions()
    guards: Guards = Guards()
    isolation: Isolation = Isolation()
    budget: Budget = Budget()
    actuator: Actuator = Actuator()
    load: Load = Load()
    workload: Workload = Workload()
    checks: dict[str, CheckOverride] = {}
    ladder: dict[str, tuple[str, ...]] = {}


NOTES: dict[str, str] = {  # said beside a key by `gpuwarden config show`
    "guards.stop_query": "stops this host while budget.prometheus_url answers it above 0, or not at all",
    "budget.prometheus_url": "asked about the hosts with the same cluster in host.labels; no answer holds actions back",
    "workload.throughput_url": "asked every poll.normal_seconds: Prometheus text or JSON, at most 4 MiB, no redirect",
    "workload.throughput_metric": "a metric's name, or a JSON path a.b.c; docs/speed.md says how its GPU is found",
}

NOT_USED_YET: tuple[str, ...] = ()  # sections and keys; a row goes when the version that uses it comes
