"""One index over many machines, on Ray: `describing` makes its parts, `searching` asks them (docs/cluster.md).

Ray starts, places, restarts and asks again; it is no requirement of this project and imported where it is used.
"""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from typing import Any

log = logging.getLogger("selavprpp")
ROOM = "selavprpp"  # Ray's namespace, in which the actors of different programs find each other
PATIENCE = 60  # seconds until it is told who is waited for


def connect(address: str | None = None) -> Any:
    """The package ray, connected: to the Ray at an address ("auto": the one of this machine), else to a new one of this
    process alone; where it is connected already, as it is.

    Every machine needs this checkout and the files that it will read, at the same paths. Raises ValueError where ray
    is not installed and where there is no Ray at that address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ModuleNotFoundError:
        raise ValueError("this needs the package ray, which is optional: pip install 'ray==2.60.*'") from None
    if not ray.is_initialized():
        alone = {} if address else {"include_dashboard": False}
        try:
            host, _, port = (address or "").rpartition("://")[2].rpartition(":")
            if port.isdecimal():  # Ray itself would try for a minute
                socket.create_connection((host, int(port)), timeout=10).close()
            ray.init(address or "local", namespace=ROOM, logging_level="ERROR", **alone)
        except (OSError, OverflowError) as error:  # ConnectionError is Ray's
            said = str(error).splitlines()[0].rstrip(".")
            raise ValueError(f"no Ray at {address}: {said}; start one by ray start --head, or leave --address out"
                             ) from None
    return ray


@contextlib.contextmanager
def answering() -> Iterator[None]:
    """What an actor raises in here is raised again as it was; Ray's own errors become one line."""
    import ray

    try:
        yield
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        said = str(error).split("\n")
        raise ValueError(f"Ray gave up: {said[0]} {said[-1].strip()}") from None  # the last: what an actor's start met


def got(asked: Sequence[Any], who: Sequence[str], *, cpus: int = 1) -> list[Any]:
    """ray.get of what was asked of `who`, which goes on waiting, but tells after PATIENCE for whom, and what there is.

    cpus  what a machine must have free to start one
    """
    import ray

    with answering():
        late = {*ray.wait(asked, num_returns=len(asked), timeout=PATIENCE)[1]}
        if late:
            names = [name for ref, name in zip(asked, who, strict=True) if ref in late]
            there, free = (found.get("CPU", 0) for found in (ray.cluster_resources(), ray.available_resources()))
            log.warning("%s%s: no answer for %g s; to start it takes a machine with %d free cores, this Ray has %g, %g "
                        "free: %s; waiting", names[0], f" and {len(names) - 1} more" if names[1:] else "", PATIENCE,
                        cpus, there, free, "add a machine, or end what holds them" if free < cpus else
                        "it may be slow, or these are on several machines")
        return ray.get(asked)
