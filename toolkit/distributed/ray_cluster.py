"""The connection to a Ray cluster, and the resources of its workers."""

import socket
from typing import Any
from urllib.parse import urlsplit

from toolkit.errors import RunError, first_line
from toolkit.utils.timeouts import run_with_timeout

_CONNECT_SECONDS = 5.0
WORKER_CORES = 4
"""The CPU cores of a worker on machines without GPUs; fewer if the machines have fewer."""


def import_ray() -> Any:
    """Return Ray.

    Raises:
        RunError: If it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise RunError("Ray is not installed.", hint='Install it with: pip install -e ".[ray]"') from error
    return ray


def connect(address: str) -> Any:
    """Connect to a cluster and return Ray.

    Args:
        address: HOST:PORT, ray://HOST:PORT or auto for a running cluster; local to start one on this machine.

    Raises:
        RunError: If Ray is not installed, or the cluster does not answer.
    """
    ray = import_ray()
    if ray.is_initialized():
        return ray
    # Ray's own attempts to connect take minutes and end the process.
    _check_answers(address)
    options = {"logging_level": "error", "log_to_driver": False}
    try:
        if address == "local":
            # In this thread: the processes of a local cluster end with the thread that started them.
            ray.init(address="local", include_dashboard=False, **options)
        else:
            run_with_timeout(_CONNECT_SECONDS, lambda: ray.init(address=address, **options))
    except (ConnectionError, TimeoutError, RuntimeError, ValueError, OSError) as error:
        raise RunError(
            f"The Ray cluster {address} cannot be used: {first_line(error)}.",
            hint="Start it with `ray start --head`, or use local.",
        ) from error
    return ray


def _check_answers(address: str) -> None:
    if address in ("local", "auto"):
        return
    parts = urlsplit(address if "://" in address else f"//{address}")
    hint = "Give HOST:PORT of a running cluster, ray://HOST:PORT, auto or local."
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port or parts.scheme not in ("", "ray"):
        raise RunError(f"{address!r} is not the address of a Ray cluster.", hint=hint)
    try:
        socket.create_connection((host, port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise RunError(f"The Ray cluster {address} does not answer: {first_line(error)}.", hint=hint) from error


def worker_resources(ray: Any) -> dict[str, Any]:
    """Return the resources of one worker: a GPU if the cluster has any, else up to `WORKER_CORES` CPU cores."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(resources.get("GPU") for resources in nodes):
        return {"num_gpus": 1}
    cores = [int(resources["CPU"]) for resources in nodes if resources.get("CPU")]
    if not cores:
        raise RunError("The Ray cluster has neither GPUs nor CPU cores.", hint="Add nodes to it.")
    return {"num_cpus": min(WORKER_CORES, min(cores))}


def count_workers(ray: Any, resources: dict[str, Any]) -> int:
    """Return the number of workers with these resources that fit into the cluster, whether it is busy or not."""
    (name, amount), *_ = resources.items()
    key = {"num_gpus": "GPU", "num_cpus": "CPU"}[name]
    return max(1, sum(int(node["Resources"].get(key, 0) // amount) for node in ray.nodes() if node["Alive"]))
