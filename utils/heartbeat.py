"""Whether the other processes are still alive: behind a frozen one the rest would wait for hours."""

import collections
import logging
import os
import threading

from torch import distributed

from .ranks import rank

log = logging.getLogger("selavprpp")
# Five minutes.  Beats come from a thread of its own, whatever the process is at: searching or writing for hours while
# the others wait is no silence.  They would miss it if one call of a library kept Python's lock for so long; none of
# ours does: torch, numpy and faiss let go of it.
BEAT_S, MISSED_BEATS = 10.0, 30
SILENT_S = 10.0  # in which one process says it, before the others end
ENDED = "ended"


class Heartbeat:
    """Tells the other processes, by the store where torchrun has them meet, that this one is alive, and ends it with
    one line and code 1 when another is not.  To be made before the processes meet, and started behind it."""

    def __init__(self) -> None:
        store, _, self._processes = next(distributed.rendezvous("env://"))  # a connection of its own
        self._store = distributed.PrefixStore("heartbeat", store)
        self._ended = threading.Event()
        self._tell("0")

    def start(self) -> None:
        threading.Thread(target=self._watch, daemon=True).start()

    def end(self) -> None:
        """From now on silence is no death."""
        self._ended.set()
        self._tell(ENDED)

    def _tell(self, state: str) -> bool:
        try:
            self._store.set(str(rank()), state)
        except RuntimeError:  # the store's keeper has gone; what waits for it tells
            return False
        return True

    def _watch(self) -> None:
        others = [str(other) for other in range(self._processes) if other != rank()]
        last: dict[str, bytes] = {}
        silent: collections.Counter[str] = collections.Counter()
        beats = 0
        # Counted in beats of its own, as no clock does: where all were frozen, none has missed another's.
        while not self._ended.wait(BEAT_S):
            beats += 1
            if not self._tell(str(beats)):
                return
            try:
                states = dict(zip(others, self._store.multi_get(others), strict=True))
            except RuntimeError:
                return
            for other, state in states.items():
                alive = state != last.get(other) or state == ENDED.encode()
                silent[other] = 0 if alive else silent[other] + 1
            last = states
            if max(silent.values()) >= MISSED_BEATS:
                self._die(max(silent, key=silent.__getitem__), silent)

    def _die(self, other: str, silent: collections.Counter[str]) -> None:
        alive = [number for number in range(self._processes) if silent[str(number)] < MISSED_BEATS]
        if alive[0] == rank():
            log.error("error: process %s has not answered for %.0f s: it is frozen, or its node is; end it and start "
                      "again, a training with --resume", other, BEAT_S * MISSED_BEATS)
        else:
            self._ended.wait(SILENT_S)
        os._exit(1)  # the main thread waits inside a library
