"""What a table of the paper is: its columns, its rows as printed, and how each row is got here."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

AVERAGE = "Average"  # of the same measure over the table's data sets


class EvaluationSet(NamedTuple):
    """What the scripts call a data set; name None: no script can evaluate it, and why. A protocol that is not called
    like its folder lies in one of `folders`."""

    name: str | None
    split: str
    why_not: str = ""
    folders: tuple[str, ...] = ()


SETS = {  # by the tables' names
    "Pitts30k-test": EvaluationSet("pitts30k", "test"),
    "MSLS-val": EvaluationSet("msls_val_740", "val", folders=("msls", "mapillary_sls")),
    "MSLS-challenge": EvaluationSet(None, "", "its labels are withheld; a server scores predictions"),
    "Tokyo24/7": EvaluationSet("tokyo247", "test"),
    "Nordland": EvaluationSet("nordland_27592_w2s_10f", "test", folders=("nordland",)),
    "SPED": EvaluationSet("sped", "test"),
    "Eynsham": EvaluationSet("eynsham", "test"),
    "SVOX-Night": EvaluationSet("svox_night", "test", folders=("svox", "svox_night")),
    "SVOX-Rain": EvaluationSet("svox_rain", "test", folders=("svox", "svox_rain")),
    "SVOX-Overcast": EvaluationSet("svox_overcast", "test", folders=("svox", "svox_overcast")),
}


class Column(NamedTuple):
    """A data set (a key of SETS, or AVERAGE) and a recall; or a group of other measures and one of them."""

    of: str
    measure: str  # "R@1": percent
    decimals: int = 1

    @property
    def k(self) -> str:
        """The k of recall@k, as in results.json."""
        return self.measure.removeprefix("R@")


def recall_columns(sets: Sequence[str], ks: Sequence[int]) -> tuple[Column, ...]:
    return tuple(Column(name, f"R@{k}") for name in sets for k in ks)


def printed(line: str) -> tuple[float | None, ...]:
    """Figures as a line of the paper's table has them; "/" where it has none."""
    return tuple(None if word == "/" else float(word) for word in line.split())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """A command of a training script, but for its seed, folders and machine.

    places      a batch
    cities      of the training set; empty: all
    variant     of utils.variants; None: the paper's final method for that backbone
    validation  sets whose `val` split is evaluated after every epoch; the last decides
    start       the training whose best model this one begins with
    """

    backbone: str
    dataset: str
    places: int
    cities: tuple[str, ...] = ()
    script: str = "train.py"
    variant: str | None = None
    epochs: int = 25
    validation: tuple[str, ...] = ("pitts30k", "msls")
    start: "Training | None" = None


@dataclasses.dataclass(frozen=True)
class Released:
    """A published file, trained on the unified data set; branches "float" or "rerank" (both branches)."""

    backbone: str
    branches: str


Model = Training | Released


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """Recalls of a model; stage "first_stage" (binary codes alone) or "final".

    depth   candidates that are re-ranked, one of `depths` that are searched from one extraction; None: the scripts' 100
    """

    model: Model
    stage: str = "final"
    depth: int | None = None
    depths: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Costs:
    """What a training takes."""

    training: Training


@dataclasses.dataclass(frozen=True)
class Counted:
    """The images of a data set."""

    of: str


@dataclasses.dataclass(frozen=True)
class Timed:
    """Search among random descriptors; a key of latency.METHODS."""

    method: str


How = Evaluated | Costs | Counted | Timed


@dataclasses.dataclass(frozen=True)
class Row:
    """A row as printed.

    paper      one figure for each column of the table
    how        the way to measure it; None: there is none here (another method: see --predictions)
    published  what stands for a trained row under --check: the published file of that very model
    """

    name: str
    paper: tuple[float | None, ...]
    how: How | None = None
    published: Evaluated | None = None

    @property
    def checkable(self) -> How | None:
        """How the row is measured without training."""
        trained = isinstance(self.how, Costs) or (isinstance(self.how, Evaluated)
                                                  and isinstance(self.how.model, Training))
        return self.published if trained else self.how


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A table as printed.

    notes      what a reader must know
    toy_seeds  of its rows on the toy city; empty: not there
    prefix     of the data sets' names in reports: drawn images are never called by a real set's name alone
    """

    number: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    toy_seeds: tuple[int, ...] = ()
    prefix: str = ""

    def __post_init__(self):
        names = [row.name for row in self.rows]
        if len(set(names)) < len(names):
            raise ValueError(f"Table {self.number}: two rows have one name")
        for row in self.rows:
            if len(row.paper) != len(self.columns):
                raise ValueError(f"Table {self.number}, {row.name}: {len(row.paper)} figures in {len(self.columns)} "
                                 "columns")

    @property
    def groups(self) -> tuple[str, ...]:
        """Data sets, AVERAGE, or groups of other measures, in order."""
        return tuple(dict.fromkeys(column.of for column in self.columns))
