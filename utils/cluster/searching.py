"""An index in parts, each searched by an actor of its own."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import faiss
import numpy as np

from ..search import TwoStageIndex
from ..search.lancedb_search import Candidates, FoundImages, merged
from . import connect, got

PART = "part-"  # begins the folders of an index in parts


def parts_of(folders: Sequence[Path]) -> list[Path]:
    """The indexes in these folders, in order: each itself, or its folders PART*."""
    found = [part.resolve() for folder in folders
             for part in ([folder] if (folder / "index.sqlite").exists() else sorted(folder.glob(f"{PART}*")))]
    if not found:
        raise FileNotFoundError(f"{', '.join(map(str, folders)) or 'no folder'}: no index, and no {PART}*; expected "
                                "what describe, an eval*.py --index or utils.localize build left")
    return found


class Part:
    """An actor's: one index, opened where Ray has placed it."""

    def __init__(self, folder: Path, cpus: int):
        faiss.omp_set_num_threads(cpus)
        self.index = TwoStageIndex.open(folder)

    def generation(self) -> int:
        return self.index.generation

    def candidates(self, codes: np.ndarray, floats: np.ndarray, depth: int) -> Candidates:
        """Both stages' distances of the `depth` nearest codes, in the order of the first."""
        bits, ids = self.index.search_codes(codes, depth)
        ranked, sorted_distances = self.index.rerank(floats, ids, depth)
        distances = np.empty_like(sorted_distances)
        back = [np.argsort(rows, axis=1) for rows in (ids, ranked)]
        np.put_along_axis(distances, back[0], np.take_along_axis(sorted_distances, back[1], axis=1), axis=1)
        names = np.array(self.index.names(ids.ravel()), object).reshape(ids.shape)
        return Candidates(ids, bits, distances, names, self.index.coordinates(ids.ravel()).reshape(*ids.shape, 2))


class Parts:
    """The actors of an index in parts, searched as one database.

    parts  their folders, in the order in which equal distances are kept
    """

    def __init__(self, folders: Sequence[Path], *, replicas: int = 1, cpus: int = 1, stay: bool = False,
                 address: str | None = None):
        """Finds the actors of these parts, and starts those that are missing: `replicas` of each, of `cpus` threads.

        No cores are reserved: when a machine dies the others take its parts, however many they have.
        stay  they outlive this program
        Raises ValueError where the parts are of several models, and where one was changed since its actor opened it.
        """
        self.parts = parts_of(folders)
        indexes = [TwoStageIndex.open(part) for part in self.parts]
        for index in indexes:
            index.of(indexes[0].model)
        self.images = sum(map(len, indexes))
        self._ray = connect(address)
        there, actor = self._ray.util.list_named_actors(), self._ray.remote(Part)
        options = {"scheduling_strategy": "SPREAD", "get_if_exists": True, "max_restarts": -1, "max_task_retries": -1,
                   "lifetime": "detached" if stay else None}
        self._actors = []
        for part in self.parts:
            names = {name for name in there if name.rpartition("#")[0] == str(part)}
            names |= {f"{part}#{number}" for number in range(replicas)}
            self._actors.append([actor.options(name=name, **options).remote(part, cpus) for name in sorted(names)])
        self._turns = itertools.count()
        asked = [(index, actor) for index, actors in zip(indexes, self._actors, strict=True) for actor in actors]
        generations = got([actor.generation.remote() for _, actor in asked], [str(index.folder) for index, _ in asked])
        for (index, _), generation in zip(asked, generations, strict=True):
            if generation != index.generation:
                raise ValueError(f"{index.folder} was changed since it is served; stop that (serve --stop), "
                                 "and serve it again")

    def search(self, codes: np.ndarray, floats: np.ndarray, *, k: int = 10, depth: int = 100) -> FoundImages:
        """As TwoStageIndex.search of all parts as one index, equal Hamming distances by part and id.

        Args: codes (m, bytes) uint8 from `pack_codes`; floats (m, D) float32.
        Threads may search at the same time; replicas take turns. Waits while a part's machine is replaced.
        """
        turn, given = next(self._turns), [self._ray.put(rows) for rows in (codes, floats)]
        asked = [actors[turn % len(actors)].candidates.remote(*given, depth) for actors in self._actors]
        return merged(got(asked, [*map(str, self.parts)]), k=k, depth=depth)


def stop(folders: Sequence[Path], *, address: str | None = None) -> int:
    """Ends the actors of these parts, those that were to stay, too; returns how many there were."""
    ray, parts = connect(address), {str(part) for part in parts_of(folders)}
    names = [name for name in ray.util.list_named_actors() if name.rpartition("#")[0] in parts]
    for name in names:
        ray.kill(ray.get_actor(name))
    return len(names)
