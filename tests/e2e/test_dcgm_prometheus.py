"""The questions that dashboards and alert sets ask dcgm-exporter, put to a real Prometheus that scrapes this instead.

Simulated hosts: eight H100 with the counters that the dashboards ask for (the default set lacks some of them), on
which this and that is wrong; two RTX 4090 and two H100 that are split by MIG, with the default set. Each question
returns data, or nothing for the reason that stands beside it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from gpuwarden import sim
from gpuwarden.exposition.dcgm_fields import fields
from support.daemonproc import DaemonProcess, wait_for
from support.prometheus import Prometheus

pytestmark = pytest.mark.real

_WORST_SECONDS = 45.0  # after the faults: everything they show has shown well before that
SELECTED = '{instance=~".*", gpu=~".*"}'
BY_HOST = '{Hostname=~".*", gpu=~".*"}'
BY_ALERT = "Hostname, DCGM_FI_DRIVER_VERSION, device, gpu, modelName, err_msg"

DASHBOARDS = (  # what returns data from a busy node, whatever is wrong with it
    # NVIDIA's own dashboard, grafana.com 12239
    f"DCGM_FI_DEV_GPU_TEMP{SELECTED}",
    f"avg(DCGM_FI_DEV_GPU_TEMP{SELECTED})",
    f"DCGM_FI_DEV_POWER_USAGE{SELECTED}",
    f"sum(DCGM_FI_DEV_POWER_USAGE{SELECTED})",
    f"DCGM_FI_DEV_SM_CLOCK{SELECTED} * 1000000",
    f"DCGM_FI_DEV_GPU_UTIL{SELECTED}",
    f"DCGM_FI_DEV_FB_USED{SELECTED}",
    f"DCGM_FI_PROF_PIPE_TENSOR_ACTIVE{SELECTED}",
    # AWS' dashboard, by host
    f"DCGM_FI_DEV_GPU_TEMP{BY_HOST}",
    f"avg(DCGM_FI_DEV_GPU_TEMP{BY_HOST})",
    f"DCGM_FI_DEV_POWER_USAGE{BY_HOST}",
    f"sum(DCGM_FI_DEV_POWER_USAGE{BY_HOST})",
    f"DCGM_FI_DEV_SM_CLOCK{BY_HOST} * 1000000",
    f"DCGM_FI_DEV_GPU_UTIL{BY_HOST}",
    f"DCGM_FI_DEV_FB_USED{BY_HOST}",
    f"DCGM_FI_PROF_PIPE_TENSOR_ACTIVE{BY_HOST}",
    "count(DCGM_FI_DEV_GPU_UTIL unless (DCGM_FI_DEV_XID_ERRORS > 0 or DCGM_FI_DEV_ECC_DBE_VOL_TOTAL > 0))"
    " / count(DCGM_FI_DEV_GPU_UTIL)",
    # Google Cloud's dashboard
    *(
        f"avg by (Hostname, modelName, gpu) (avg_over_time(DCGM_FI_PROF_{name}[1m]))"
        for name in (
            "SM_ACTIVE",
            "PIPE_TENSOR_ACTIVE",
            "PIPE_FP16_ACTIVE",
            "PIPE_FP32_ACTIVE",
            "PIPE_FP64_ACTIVE",
            "DRAM_ACTIVE",
            "GR_ENGINE_ACTIVE",
        )
    ),
    "DCGM_FI_PROF_DRAM_ACTIVE or DCGM_FI_DEV_MEM_COPY_UTIL",
    "DCGM_FI_PROF_PCIE_TX_BYTES",
    "DCGM_FI_PROF_PCIE_RX_BYTES",
    "DCGM_FI_PROF_NVLINK_TX_BYTES",
    "DCGM_FI_PROF_NVLINK_RX_BYTES",
    "DCGM_FI_DEV_FB_USED * 100 / DCGM_FI_DEV_FB_TOTAL",
    "DCGM_FI_DEV_MEM_CLOCK * 1e6",
    "sum by (namespace, pod) (rate(DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION[1m]) / 1000)",
    # the GPU operator's rules for OpenShift
    "DCGM_FI_DEV_MEM_COPY_UTIL",
    "DCGM_FI_DEV_FB_TOTAL",
    "DCGM_FI_DEV_MEM_CLOCK",
    # Red Hat's console
    "count by (UUID, GPU_I_ID, modelName) (DCGM_FI_PROF_GR_ENGINE_ACTIVE)",
    'sum by (UUID, GPU_I_ID) (DCGM_FI_PROF_GR_ENGINE_ACTIVE{UUID=~".+",GPU_I_ID=~".+"})',
    'DCGM_FI_DEV_FB_USED{GPU_I_PROFILE="3g.40gb"}',
    "DCGM_FI_DEV_POWER_MGMT_LIMIT_MAX",
    "DCGM_FI_DEV_MAX_SM_CLOCK",
    "DCGM_FI_DEV_MAX_MEM_CLOCK",
    "DCGM_FI_DEV_ENC_UTIL",
    "DCGM_FI_DEV_DEC_UTIL",
    # OpenObserve's dashboard, grafana.com 18288
    "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS",
    "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS",
    "DCGM_FI_DEV_ROW_REMAP_FAILURE",
    "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL",
    "DCGM_FI_DEV_VGPU_LICENSE_STATUS",
    "DCGM_FI_DEV_PCIE_REPLAY_COUNTER",
    'count by (DCGM_FI_DEV_VBIOS_VERSION, DCGM_FI_DEV_SERIAL) (DCGM_FI_DEV_GPU_TEMP{DCGM_FI_DEV_SERIAL!=""})',
    "DCGM_FI_PROF_SM_OCCUPANCY",
)

ALERTS = (  # what returns data because of what is wrong with the node
    "DCGM_FI_DEV_GPU_TEMP > 80",
    "DCGM_FI_DEV_GPU_TEMP > 83",
    "DCGM_FI_DEV_GPU_TEMP > 85",
    "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL > 0",
    "DCGM_FI_DEV_ECC_DBE_AGG_TOTAL > (DCGM_FI_DEV_ECC_DBE_AGG_TOTAL offset 10s)",
    "DCGM_FI_DEV_XID_ERRORS > 0",
    f"max by ({BY_ALERT}) (DCGM_FI_DEV_XID_ERRORS) > 0",
    'DCGM_FI_DEV_XID_ERRORS{err_code=~"48|62|63|64|74|79|92|94|95|119|120"} > 0',
    "increase(DCGM_FI_DEV_ECC_DBE_VOL_TOTAL[1h]) > 0",
    "rate(DCGM_FI_DEV_ECC_SBE_VOL_TOTAL[5m]) * 3600 > 100",
    "DCGM_FI_DEV_ROW_REMAP_FAILURE > 0",
    "DCGM_FI_DEV_ROW_REMAP_PENDING > 0",
    "DCGM_FI_DEV_FB_USED / (DCGM_FI_DEV_FB_USED + DCGM_FI_DEV_FB_FREE) > 0.5",
    "avg_over_time(DCGM_FI_DEV_GPU_UTIL[1m])",
    "floor(DCGM_FI_DEV_CLOCK_THROTTLE_REASONS / 8) % 2 == 1",
    "floor(DCGM_FI_DEV_CLOCKS_EVENT_REASONS / 8) % 2 == 1",
    "increase(DCGM_FI_DEV_PCIE_REPLAY_COUNTER[5m]) > 10",
    "increase(DCGM_FI_DEV_THERMAL_VIOLATION[5m]) > 0",
    'up{job=~".*dcgm.*"} == 1',
)


class Silent(NamedTuple):
    """A question that is right to return nothing here."""

    expression: str
    why: str


NOTHING = (
    Silent("absent(DCGM_FI_DEV_GPU_TEMP)", "seven GPUs still report it"),
    Silent('up{job=~".*dcgm.*"} == 0', "all hosts are up"),
    Silent('DCGM_FI_DEV_GPU_UTIL{GPU_I_ID=~".+"}', "the driver has no utilisation of a GPU that is split"),
    Silent("DCGM_FI_DEV_GPU_MAX_OP_TEMP", "H100 has margins, not absolute limits; the default set has no such field"),
    Silent("DCGM_FI_DEV_MEM_MAX_OP_TEMP", "as GPU_MAX_OP_TEMP"),
    Silent("DCGM_FI_DEV_MEMORY_TEMP > 95", "no memory is that hot"),
    Silent("DCGM_FI_DEV_GPU_UTIL < 5 and DCGM_FI_DEV_FB_USED > 100", "every GPU is busy"),
    Silent('DCGM_FI_DEV_GPU_TEMP{gpu="7",Hostname="node-a"}', "a lost GPU's readings go"),
    Silent(
        "avg_over_time(DCGM_FI_DEV_GPU_UTIL[1m]) * on (pod, namespace) group_left (node) kube_pod_info",
        "the metric on the right is kube-state-metrics'",
    ),
)

MIG = Path(sim.__file__).parent / "data" / "scenarios" / "mig.toml"
WIDE = "".join(f'{field.name}, {field.type},"{field.help}"\n' for field in fields().values())


class Site(NamedTuple):
    """The Prometheus, and the daemons behind it."""

    prometheus: Prometheus
    wide: DaemonProcess
    default: DaemonProcess
    split: DaemonProcess
    since: float

    def patience(self) -> float:
        """Return how many seconds more an answer may take; never less than two."""
        return max(2.0, self.since + _WORST_SECONDS - time.monotonic())


def swapped(directory: Path, spec: str, counters: str, host: str) -> DaemonProcess:
    """Return a daemon in dcgm-exporter's place."""
    directory.mkdir()
    config = "[exposition]\nnative = false\ndcgm = true\n"
    if counters:
        (directory / "counters.csv").write_text(counters)
        config += f'dcgm_counters = "{directory / "counters.csv"}"\n'
    return DaemonProcess(directory, "--sim", spec, config=config, environ={"NODE_NAME": host}).start()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The hosts and the Prometheus; the faults come once it has scraped the healthy node for a while."""
    root = tmp_path_factory.mktemp("site")
    with (
        swapped(root / "wide", "h100x8", WIDE, "node-a") as wide,
        swapped(root / "default", "rtx4090x2", "", "node-b") as default,
        swapped(root / "split", str(MIG), "", "node-c") as split,
    ):
        job = {
            "job_name": "dcgm-exporter",
            "static_configs": [{"targets": [each.url.removeprefix("http://") for each in (wide, default, split)]}],
        }
        (root / "prometheus.yml").write_bytes(
            msgspec.json.encode({"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": [job]})
        )
        with Prometheus(root) as prometheus:
            wait_for(lambda: len(prometheus.query("DCGM_FI_DEV_ECC_DBE_AGG_TOTAL offset 1s")) == 8, 30, "scrapes")
            wide.inject("xid", 1, code=94)
            wide.inject("ecc", 2, per_second=50.0, uncorrected=2)
            wide.inject("remap", 0)
            wide.inject("remap", 3, failed=1)
            wide.inject("downtrained", 4, width=8, replays_per_second=50.0)
            wide.inject("heat", 5, seconds=3.0)
            wide.inject("power_brake", 6)
            wide.inject("fallen_off", 7)
            yield Site(prometheus, wide, default, split, time.monotonic())


@pytest.mark.parametrize("expression", [*DASHBOARDS, *ALERTS])
def test_the_question_is_answered(site: Site, expression: str) -> None:
    """Data comes back."""
    wait_for(lambda: site.prometheus.query(expression), site.patience(), expression)


def test_a_changed_xid_is_another_series(site: Site) -> None:
    """`changes()` is about one series, and err_msg makes a new one: it sees changes as long as labels stay."""
    found = wait_for(lambda: site.prometheus.query('DCGM_FI_DEV_XID_ERRORS{err_code="94"}'), site.patience(), "the Xid")
    assert found[0]["metric"]["gpu"] == "1"
    query = "changes(max by (Hostname, gpu) (DCGM_FI_DEV_XID_ERRORS)[1m:1s]) > 0"
    wait_for(lambda: site.prometheus.query(query), site.patience(), query)


@pytest.mark.parametrize("silent", NOTHING, ids=lambda each: each.expression)
def test_the_question_is_rightly_unanswered(site: Site, silent: Silent) -> None:
    """Nothing comes back, for the reason given."""
    gone = 'count(DCGM_FI_DEV_GPU_TEMP{Hostname="node-a"}) == 7 and count(DCGM_FI_DEV_FB_USED{GPU_I_ID=""}) == 9'
    wait_for(lambda: site.prometheus.query(gone), site.patience(), "GPU 7 gone and all others there")
    assert site.prometheus.query(silent.expression) == [], silent.why


@pytest.mark.parametrize(
    ("metric", "label", "values"),
    [
        ("DCGM_FI_DEV_GPU_TEMP", "gpu", {"0", "1", "2", "3", "4", "5", "6", "7"}),
        ("DCGM_FI_DEV_GPU_UTIL", "Hostname", {"node-a", "node-b"}),
    ],
)
def test_variables_have_values(site: Site, metric: str, label: str, values: set[str]) -> None:
    """`label_values` of the dashboards' variables."""
    wait_for(
        lambda: set(site.prometheus.ask(f"label/{label}/values", **{"match[]": metric})) == values,
        site.patience(),
        label,
    )


def test_all_targets_are_known_by_instance(site: Site) -> None:
    """`label_values(DCGM_FI_DEV_GPU_TEMP, instance)`."""
    found = site.prometheus.ask("label/instance/values", **{"match[]": "DCGM_FI_DEV_GPU_TEMP"})
    assert set(found) == {each.url.removeprefix("http://") for each in (site.wide, site.default, site.split)}


def test_types_and_help_are_known(site: Site) -> None:
    """What Prometheus keeps as metadata is what the counters file says."""
    known = wait_for(lambda: site.prometheus.ask("metadata"), site.patience(), "metadata")
    temperature = known["DCGM_FI_DEV_GPU_TEMP"][0]
    assert (temperature["type"], bool(temperature["help"])) == ("gauge", True)
    assert known["DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"][0]["type"] == "counter"
    assert not [name for name in known if name.startswith("gpuwarden_")], json.dumps(known)[:500]
