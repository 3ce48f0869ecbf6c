"""The ranks on the nodes of a Ray cluster (extra `ray`), one task of Ray for each.

    a bundle of every node ─▶ address and port of the first ─▶ ranks ─▶ one that fails ends all

Ray places and watches processes; what they do is `lucida train`. The run folder has to be one that
all nodes see.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from lucida.apps.launch.job import Job, run_rank
from lucida.core.errors import RunError

PATIENCE = 60.0
"""Seconds for the cluster to find room for all ranks: more than it takes where there is room."""

ANSWER = 10.0
"""Seconds for the head of the cluster to take a connection."""


def run_on_ray(job: Job, address: str) -> int:
    """Train on the cluster at `address` (`auto`: the one this machine belongs to); the exit status
    of the first rank that failed, or 0.

    RunError when Ray is missing, there is no cluster or no room, or a rank was killed.
    """
    try:
        import ray
    except ImportError as problem:
        raise RunError("ray is not installed", remedy="pip install 'lucida[ray]'") from problem
    check_address(address)
    same = {name: os.environ[name] for name in ("PYTHONPATH", "LUCIDA_CACHE") if name in os.environ}
    try:
        ray.init(address=address, runtime_env={"env_vars": same}, log_to_driver=True)
    except (ConnectionError, ValueError, RuntimeError) as problem:
        raise RunError(
            f"there is no Ray cluster at {address}: {problem}",
            remedy="`ray status --address ADDRESS` should show it",
        ) from problem
    try:
        return _train_on_cluster(job)
    finally:
        ray.shutdown()


def check_address(address: str) -> None:
    """RunError when nothing listens at HOST:PORT; Ray itself would try for 20 minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "//" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER).close()
    except (OSError, OverflowError) as problem:
        raise RunError(
            f"there is no Ray cluster at {address}: {problem}",
            remedy="`ray status --address ADDRESS` should show it",
        ) from problem


def _train_on_cluster(job: Job) -> int:
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    kind = "GPU" if ray.cluster_resources().get("GPU") else "CPU"
    need = [{kind: job.processes} for _ in range(job.nodes)]
    group = ray.util.placement_group(need, strategy="STRICT_SPREAD")
    if not group.wait(PATIENCE):
        have = [f"{node['Resources'].get(kind, 0):g}" for node in ray.nodes() if node["Alive"]]
        raise RunError(
            f"the cluster has no room for {job.nodes} nodes of {job.processes} ranks",
            expected=f"{kind}: {job.processes} free on each of {job.nodes} nodes",
            given=f"{kind} of its nodes: {', '.join(have)}, some of it perhaps taken",
        )

    def remote(function, node: int, share: float = 1.0):
        place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=node)
        amount = {"num_gpus": share} if kind == "GPU" else {"num_cpus": share}
        # By itself a task asks for one CPU, of which a bundle of GPUs has none.
        amount = {"num_cpus": 0} | amount
        return ray.remote(function).options(scheduling_strategy=place, max_retries=0, **amount)

    address, port = ray.get(remote(find_address, 0, 0).remote(job.port))
    common = {"MASTER_ADDR": address, "MASTER_PORT": str(port), "WORLD_SIZE": str(job.world)}
    common |= {"LOCAL_WORLD_SIZE": str(job.processes), "LUCIDA_LAUNCHER": "ray"}
    ranks = {}
    for rank in range(job.world):
        node, local = divmod(rank, job.processes)
        # Ray shows each task its own GPU alone.
        own = {"RANK": str(rank), "LOCAL_RANK": "0" if kind == "GPU" else str(local)}
        task = remote(train_rank, node).remote(job, common | own, str(Path.cwd()))
        ranks[task] = rank
    return _wait_for_ranks(job, ranks)


def _wait_for_ranks(job: Job, ranks: dict) -> int:
    import ray

    left = list(ranks)
    try:
        while left:
            (done,), left = ray.wait(left)
            try:
                status = ray.get(done)
            except ray.exceptions.RayError as problem:
                raise RunError(
                    f"rank {ranks[done]} was killed: {str(problem).splitlines()[0]}",
                    origin=job.folder,
                    remedy="the same command goes on from the last checkpoint",
                ) from problem
            if status:
                # The others have lost it, and need a moment to end by themselves.
                ray.wait(left, num_returns=len(left), timeout=15.0) if left else None
                return status
        return 0
    finally:
        for task in left:
            ray.cancel(task, force=True)


def find_address(port: int | None) -> tuple[str, int]:
    """Of the node that it runs on: its address in the cluster, and a free port."""
    import ray

    with socket.socket() as probe:
        probe.bind(("", port or 0))
        return ray.util.get_node_ip_address(), probe.getsockname()[1]


def train_rank(job: Job, environment: dict[str, str], place: str) -> int:
    """One rank, in a process of Ray's: its exit status."""
    os.environ.update(environment)
    os.chdir(place)
    return run_rank(job)[0]
