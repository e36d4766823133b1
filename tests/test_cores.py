"""Workers start on the cores that a process may use, not on those that the machine has."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from hepcal import cores
from hepcal.cores import usable_cores
from hepcal.events import executors
from hepcal.networks.parallel import cores as threads_of_a_prediction


@pytest.fixture(autouse=True)
def eight(monkeypatch: Any) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)


def system(root: Path, cgroups: str, **limits: str) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroups)
    for path, text in limits.items():
        file = root / "sys/fs/cgroup" / path.replace("__", "/").replace("_max", ".max").replace("cfs", "cpu.cfs")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def test_the_affinity_counts_and_not_the_machine(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == 8


@pytest.mark.parametrize(
    ("quota", "found"),
    [
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("max 100000", 8),
        ("9900000 100000", 8),
        ("", 8),
    ],
)
def test_a_quota_of_version_2_limits(tmp_path: Path, quota: str, found: int) -> None:
    assert usable_cores(system(tmp_path, "0::/\n", cpu_max=quota)) == found


def test_quotas_around_the_own_cgroup_limit_as_well(tmp_path: Path) -> None:
    root = system(tmp_path, "0::/batch/job\n", batch__job__cpu_max="max 100000", batch__cpu_max="300000 100000")
    assert usable_cores(root) == 3


@pytest.mark.parametrize(("quota", "found"), [("400000", 4), ("-1", 8)])
def test_a_quota_of_version_1_limits(tmp_path: Path, quota: str, found: int) -> None:
    of_job = {"cpu,cpuacct__job__cfs_quota_us": quota, "cpu,cpuacct__job__cfs_period_us": "100000"}
    lines = "5:memory:/job\n4:cpu,cpuacct:/job\n0::/\n"
    assert usable_cores(system(tmp_path, lines, **of_job)) == found


def test_what_does_not_say_where_the_process_is_limits_nothing(tmp_path: Path) -> None:
    assert usable_cores(system(tmp_path, "nonsense\n\n4:cpu\n", cpu_max="nonsense")) == 8


def test_a_container_that_sees_only_the_root_of_its_cgroup_is_limited(tmp_path: Path) -> None:
    root = system(tmp_path, "4:cpu,cpuacct:/docker/abc\n", cpu__cfs_quota_us="100000", cpu__cfs_period_us="100000")
    assert usable_cores(root) == 1


def test_a_system_without_affinity_counts_its_cores(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cores(tmp_path) == 64


def test_the_executor_and_the_threads_of_a_prediction_follow(monkeypatch: Any) -> None:
    started = []
    monkeypatch.setattr(cores, "_quotas", lambda _: (3.0,))
    monkeypatch.setattr("loky.ProcessPoolExecutor", lambda max_workers: started.append(max_workers) or Pool())
    with executors.open_executor("futures"):
        assert started == [3]
    monkeypatch.delenv("HEPCAL_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert threads_of_a_prediction() == 3


class Pool:
    def shutdown(self, **_: Any) -> None:
        """Nothing was started."""
