"""The paper's tables: their figures stand in tables.txt, as printed; here stands how each row is measured."""

import dataclasses
import itertools
import re
from pathlib import Path

from .plan import Column, Evaluated, How, Others, Own, Training, published

BASE, LARGE = "dinov2-base", "dinov2-large"
LETTERS = {"B": BASE, "L": LARGE}
GSV, UNIFIED = "gsv_cities", "unified_dataset"
# The final method needs no variant: MultiConv adapters after every block (base), after the last 16 (large).
TUNED = {"Freezing": "freezing", "Full-tuning": "full", "Partial-tuning": "partial", "SelaVPR-global": "selavpr-global",
         "MemEfficient-vanilla": "side-vanilla", "MemEfficient-MCA": None}
PLACED = {"Freezing": "freezing", "All": "all", "Every 2": "every-2", "Every 3": "every-3", "Every 6": "every-6",
          "Last 16": None, "Last 12": "last-12", "Last 8": "last-8", "Last 4": "last-4"}
HASHED = {"Direct hashing": "direct", "LC hashing": "lc", "SC hashing": "sc", "STE": "ste",
          "SC hashing + STE": "sc-ste"}


@dataclasses.dataclass(frozen=True)
class Row:
    """A row as printed, with a figure or None for each column; how None: it is not measured here (another method)."""

    name: str
    paper: tuple[float | None, ...]
    how: How | None = None

    @property
    def why_not(self) -> str:
        """Why no command gives its figures, where none does."""
        if isinstance(self.how, Others):
            return "another method's, quoted"
        return "trained, not checked: its figures vary with the seed" if self.how else "the paper's figures alone"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A table as printed.

    notes      what a reader must know
    seeds      of trained rows, where none are given
    toy_seeds  the same on the toy city; empty: not there
    prefix     of the data sets' names in reports: drawn images are never called by a real set's name alone
    """

    number: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    toy_seeds: tuple[int, ...] = ()
    prefix: str = ""

    @property
    def trained(self) -> "Table":
        """With trainings in place of published files."""
        rows = (dataclasses.replace(row, how=row.how and row.how.trained) for row in self.rows)
        return dataclasses.replace(self, rows=tuple(rows))

    @property
    def groups(self) -> tuple[str, ...]:
        """Data sets, AVERAGE, or groups of other measures, in order."""
        return tuple(dict.fromkeys(column.of for column in self.columns))


def released(backbone: str, kind: str, **stage: str | int) -> Evaluated:
    return Evaluated(published(backbone, kind), **stage)


def trained(backbone: str, dataset: str, **options: str | int | None) -> Evaluated:
    return Evaluated(Training(backbone=backbone, dataset=dataset, **options))


# Other methods whose authors' repositories have a torch.hub entry. Entries, sizes and normalisations are from memory.
OTHERS = {
    "CosPlace": Others(("gmberton/cosplace:get_trained_model", "backbone=VGG16", "fc_output_dim=512"), (480, 640)),
    "EigenPlaces": Others(("gmberton/eigenplaces:get_trained_model", "backbone=ResNet50", "fc_output_dim=2048"),
                          (480, 640)),
    "SFRS": Others(("yxgeee/OpenIBL:vgg16_netvlad", "pretrained=True"), (480, 640), "vgg"),
    "CricaVPR": Others(("Lu-Feng/CricaVPR:trained_model",), (224, 224)),
    "SALAD": Others(("serizba/salad:dinov2_salad",), (322, 322)),
    "BoQ": Others(("amaralibey/bag-of-queries:get_trained_boq", "backbone_name=dinov2", "output_dim=12288"),
                  (322, 322)),
}


# The smaller batch of Table V is what full tuning needs; the paper takes it for all methods. Table VI has one small
# validation set: only the training pass is measured, with everything kept for the gradient as in the published code.
EPOCH = {"places": 40, "epochs": 1, "validation": ("pitts30k",), "fields": ("recompute=false",)}
HOW: dict[str, dict[str, How]] = {
    "I": {name: Own(name) for name in ("Pitts30k-test", "MSLS-val", "Tokyo24/7", "Nordland")},
    "II": {**OTHERS, "SelaVPR++ (resource)": released(BASE, "rerank"),
           "SelaVPR++ (performance)": released(LARGE, "rerank")},
    "III": {**{name: OTHERS[name] for name in ("CosPlace", "EigenPlaces", "SALAD", "BoQ")},
            "SelaVPR++": released(LARGE, "rerank")},
    "IV": {name: trained(BASE, GSV, variant=variant) for name, variant in TUNED.items()},
    "V": {name: trained(LARGE, GSV, places=60, variant=variant) for name, variant in TUNED.items()},
    "VI": {f"{name}, DINOv2-{letter}": trained(backbone, GSV, variant=variant, **EPOCH)
           for letter, backbone in LETTERS.items() for name, variant in TUNED.items() if variant != "side-vanilla"}
          | {"MemEfficient-MCA(4), DINOv2-L": trained(LARGE, GSV, variant="last-4", **EPOCH)},
    "VII": {name: trained(LARGE, UNIFIED, variant=variant) for name, variant in PLACED.items()},
    "VIII": {
        "Binary (512D), DINOv2-B": released(BASE, "rerank", stage="first_stage"),
        "Float (2048D), DINOv2-B": released(BASE, "float"),
        "Our re-ranking, DINOv2-B": released(BASE, "rerank"),
        "Binary (512D), DINOv2-L": released(LARGE, "rerank", stage="first_stage"),
        "Float (4096D), DINOv2-L": released(LARGE, "float"),
        "Our re-ranking, DINOv2-L": released(LARGE, "rerank"),
    },
    "IX": {name: Own(name) for name in ("SelaVPR", "Float (4096D)", "Float (2048D)", "Float (512D)", "Binary (512D)",
                                          "SelaVPR++ (resource)", "SelaVPR++ (performance)")},
    "X": {f"Top-{depth}": released(LARGE, "rerank", depth=depth) for depth in (20, 50, 100, 200)},
    "XI": {name: trained(BASE, GSV, script="train_hashing.py", variant=variant) for name, variant in HASHED.items()},
    "XII": {f"{name}, DINOv2-{letter}": trained(backbone, dataset) for letter, backbone in LETTERS.items()
            for name, dataset in (("GSV-Cities", GSV), ("Unified dataset", UNIFIED))},
}
# Ours, behind the printed rows: what the paper leaves open, and what it has otherwise than we do.
FURTHER: dict[str, dict[str, How]] = {
    "VI": {f"{name}, memory saved": dataclasses.replace(how, model=dataclasses.replace(how.model, fields=()))
           for name, how in HOW["VI"].items()},
    "XI": {"LC hashing, Gaussian error": trained(BASE, GSV, script="train_hashing.py", variant="lc-error"),
           "SC hashing + STE, 1/5 of the pairs": trained(BASE, GSV, script="train_hashing.py", variant="sc-ste",
                                                         fields=("pair_fraction=0.2",))},
}
# Data sets that a table gets behind one of its own: another reading of it, and what shares its database.
BEHIND = {"MSLS-val": ("MSLS-val, also within 40 degrees",), "SVOX-Overcast": ("SVOX-Snow", "SVOX-Sun")}
TOY_SEEDS = {"IV": (0,), "VII": (0,), "VIII": (0,), "X": (0,), "XI": (0, 1), "XII": (0,)}
MEASURES = {  # that are no recalls: decimals, keys in results.json, scale
    "database": (0, ("n_database",)),
    "queries": (0, ("n_queries",)),
    "minutes": (2, ("training", "minutes_per_epoch")),
    "trained parameters, million": (2, ("training", "trainable_parameters"), 1e-6),
    "peak memory, GiB": (2, ("training", "peak_memory_mib"), 2.0**-10),
    "initial, ms": (3, ("initial",)),
    "re-ranking, ms": (3, ("rerank",)),
    "total, ms": (3, ("total",)),
}


def read(block: str) -> Table:
    """A block of tables.txt."""
    table, *notes = block.split("\n* ")
    first, groups, measures, *lines = table.splitlines()
    number, title = first.removeprefix("Table ").split(": ", 1)
    printed = [Column(of.strip(), measure, *MEASURES.get(measure, ()))
               for of, cell in zip(groups.split("|")[1:], measures.split("|")[1:], strict=True)
               for measure in re.split(r" {2,}", cell.strip())]
    columns = []
    for of, same in itertools.groupby(printed, lambda column: column.of):
        columns += (own := list(same))
        columns += [column._replace(of=other) for other in BEHIND.get(of, ()) for column in own]
    rows, how = [], dict(HOW[number])
    for line in lines:
        name, figures = line.split("|", 1)
        words = figures.replace("|", " ").split()
        paper = {column: None if word == "/" else float(word) for column, word in zip(printed, words, strict=True)}
        rows.append(Row(name.strip(), tuple(map(paper.get, columns)), how.pop(name.strip(), None)))
    if how:
        raise ValueError(f"Table {number}: no row is called {', '.join(how)}")
    rows += [Row(name, (None,) * len(columns), more) for name, more in FURTHER.get(number, {}).items()]
    return Table(number=number, title=title, columns=tuple(columns), rows=tuple(rows),
                 notes=tuple(" ".join(note.split()) for note in notes), toy_seeds=TOY_SEEDS.get(number, ()))


TEXT = Path(__file__).with_name("tables.txt").read_text()
TABLES = {table.number: table for table in map(read, TEXT.strip().split("\n\n")[1:])}


def find(number: str) -> Table:
    """The table of a Roman or Arabic number. ValueError names those that exist."""
    names = {str(position): name for position, name in enumerate(TABLES, start=1)} | {name: name for name in TABLES}
    if number.upper() not in names:
        raise ValueError(f"table {number!r}: expected one of {', '.join(TABLES)}, or 1 to {len(TABLES)}")
    return TABLES[names[number.upper()]]
