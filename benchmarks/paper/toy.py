"""The paper's rows on the toy city: what stands for its backbones, data sets and published files."""

import dataclasses
from pathlib import Path

from .plan import Protocol, Settings
from .rows import AVERAGE, Model, Released, Row, Table, Training
from .trained import BASE, GSV, LARGE, UNIFIED

BACKBONES = {BASE: "dinov2-tiny", LARGE: "dinov2-narrow"}  # narrow has the 24 blocks of large: placements differ
CITIES = {GSV: ("Boston", "Lisbon"), UNIFIED: ("Boston", "Lisbon", "Osaka", "PRS")}
TEST_SETS = ("Pitts30k-test", "MSLS-val")
SIZE = ("112", "112")
EPOCHS, RERANK_EPOCHS, PLACES = 11, 3, 20
MACHINE = ("--infer_batch_size", "64", "--num_workers", "1", "--device", "cpu")
CITY = "toy_city"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyProtocol(Protocol):
    """Small models on seeded random weights, which learn in minutes; they follow the demo's settings."""

    lr: str = "0.004"
    image_options: tuple[str, ...] = ("--resize", *SIZE)
    training_image_options: tuple[str, ...] = ("--train_resize", *SIZE)

    def model(self, model: Model) -> Training:
        """The training that stands for one of the paper's, or for a published file."""
        if isinstance(model, Released):
            published = Training(backbone=model.backbone, dataset=UNIFIED, places=120)
            if model.branches == "rerank":
                published = dataclasses.replace(published, script="train_rerank.py", start=published)
            return self.model(published)
        return dataclasses.replace(
            model, backbone=BACKBONES[model.backbone], dataset=GSV, cities=CITIES[model.dataset], places=PLACES,
            validation=("msls",), epochs=RERANK_EPOCHS if model.script == "train_rerank.py" else EPOCHS,
            start=model.start and self.model(model.start))

    def foundation(self, backbone: str, weights_folder: Path | None) -> tuple[list[str], str | None]:
        return ["--foundation_model_path", "random"], None


def toy_settings(out: Path, machine: tuple[str, ...] = MACHINE) -> Settings:
    return Settings(out=out / "toy", datasets_folder=out / CITY, machine=machine, protocol=ToyProtocol())


def toy_table(table: Table) -> Table:
    """The columns that the toy city has, without the paper's figures, which are of other images.

    ValueError for a table without them.
    """
    if not table.toy_seeds:
        raise ValueError(f"Table {table.number} has no toy: it is not of trained models, or another has its rows")
    columns = tuple(column for column in table.columns if column.of in (*TEST_SETS, AVERAGE))
    rows = tuple(Row(row.name, (None,) * len(columns), row.how) for row in table.rows)
    return dataclasses.replace(table, title=f"{table.title} (toy city)", columns=columns, rows=rows, prefix="toy ",
                               notes=("Drawn images and small models that start from random weights: paths "
                                      "exercised, not a reproduction.",))

