"""What tests/test_distributed.py computes both in its own process and in two: the same functions.

As a script: `several_processes.py FOLDER DATA` computes everything in two processes, with the environment that torchrun
gives, and leaves it in FOLDER/<rank>.pt. They are forked, for torch takes as long to import as all that is computed.
"""

import importlib
import os
import socket
import sys
from pathlib import Path

import torch
from descriptors import evaluator_of
from images import SIDE
from torch import Tensor, multiprocessing, nn

from datasets import BenchmarkDataset, evaluation_transform, read_folder
from losses import mine_pairs, multi_similarity_loss, similarity_constrained_loss
from model import BRANCHES, ModelConfig, build_model
from model.layers.batch_norm import BatchNorm
from utils import distributed
from utils.evaluation.extraction import extract
from utils.ranks import rank

IMAGES = 4  # of each place


def own_rows(places: int) -> slice:
    own = distributed.own_share(places)
    return slice(IMAGES * own.start, IMAGES * own.stop)


def batch(places: int) -> tuple[Tensor, Tensor]:
    """The whole batch: images of a place are alike, but not so much that no pair is mined, nor all are."""
    random = torch.Generator().manual_seed(places)
    texture = torch.randn(places, 1, 3, 7, 7, generator=random)
    texture = texture.repeat_interleave(SIDE // 7, 3).repeat_interleave(SIDE // 7, 4)
    images = texture + torch.randn(places, IMAGES, 3, SIDE, SIDE, generator=random)
    return images.flatten(0, 1), torch.arange(places).repeat_interleave(IMAGES)


def training_step(mode: str, places: int, fraction: float = 1.0, recompute: bool = True,
                  **fields: str) -> dict[str, Tensor]:
    """Loss, pairs, gradients and running statistics of one step on a batch, as in the scripts."""
    branches = ("float",) if mode == "float" else BRANCHES
    model = build_model(ModelConfig(backbone="dinov2-tiny", branches=branches, **fields), seed=places)
    if mode == "rerank":
        model.freeze("float_branch")
    model.recompute = recompute
    network = distributed.wrap(model)
    model.train()
    images, labels = (whole[own_rows(places)] for whole in batch(places))
    torch.manual_seed(0)
    if mode == "float":
        descriptors = network(images, branches=("float",)).floating
        descriptors, labels = distributed.gather(descriptors, labels)
        pairs = mine_pairs(descriptors, labels, epsilon=0.003)
        loss = multi_similarity_loss(descriptors, pairs)
    else:
        out = network(images, branches=model.config.learning)
        floating, relaxed, descriptors, labels = distributed.gather(out.floating, out.relaxed, out.binary, labels)
        pairs = mine_pairs(descriptors, labels, epsilon=0.003)
        loss = multi_similarity_loss(descriptors, pairs)
        if mode == "joint":
            loss = loss + multi_similarity_loss(floating, mine_pairs(floating, labels, epsilon=0.003))
        loss = loss + 10 * similarity_constrained_loss(relaxed, descriptors, pairs, fraction=fraction)
    loss.backward()
    return {"loss": loss.detach(), "labels": labels, "descriptors": descriptors.detach(),
            "positive": pairs.positive, "negative": pairs.negative,
            "gradients": {name: p.grad for name, p in model.named_parameters() if p.requires_grad},
            "buffers": dict(model.named_buffers())}


class Exact(nn.BatchNorm1d):
    """torch's own, in float64 whatever the input: what one process should give."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.double().flatten(0, 1)).view(x.shape)


def batch_norm(dtype: torch.dtype, places: int, mean: float, spread: float, *,
               kind: type[nn.BatchNorm1d] = BatchNorm) -> dict[str, Tensor]:
    """Two passes of a BatchNorm, and the gradients of a weighted sum of the second's outputs."""
    random = torch.Generator().manual_seed(7)
    channels = 5
    norm = kind(channels, eps=1e-3)
    if kind is Exact:
        norm.double()
    with torch.no_grad():
        norm.weight.copy_(torch.randn(channels, generator=random))
        norm.bias.copy_(torch.randn(channels, generator=random))
    shift = mean * torch.arange(1, channels + 1)
    for _ in range(2):
        x = shift + spread * torch.randn(IMAGES * places, 6, channels, generator=random)
        weights = torch.randn(x.shape, generator=random)
        x, weights = x.to(dtype)[own_rows(places)].requires_grad_(), weights[own_rows(places)]
        y = norm(x)
        norm.zero_grad()
        (y * weights).sum().backward()
    return {"y": y.detach(), "dx": x.grad, "dweight": norm.weight.grad, "dbias": norm.bias.grad,
            "running_mean": norm.running_mean, "running_var": norm.running_var, "passes": norm.num_batches_tracked}


BATCH_NORMS = {
    "fp32": (torch.float32, 4, 1.0, 1.0),
    "unequal shares": (torch.float32, 3, 1.0, 1.0),
    "large mean": (torch.float32, 3, 100.0, 0.1),
    "bf16": (torch.bfloat16, 3, 1.0, 1.0),
    "float64": (torch.float64, 3, 1.0, 1.0),
}
STEPS = {
    "float": ("float", 4),
    "float, unequal shares": ("float", 3),
    "float, everything kept": ("float", 3, 1.0, False),
    "rerank": ("rerank", 4),
    "rerank, unequal shares, half of the pairs": ("rerank", 3, 0.5),
}
# The same for methods whose gradient takes other ways; without MultiConv adapters there are no running statistics.
METHODS = {
    "full": ("float", 3, {"tuning": "full"}),
    "selavpr": ("float", 3, {"tuning": "selavpr"}),
    "vanilla": ("float", 3, {"adapter": "vanilla"}),
    "joint": ("joint", 3, {"order": "joint"}),
}


def steps() -> dict:
    found = {name: training_step(*inputs) for name, inputs in STEPS.items()}
    return found | {name: training_step(mode, places, **fields) for name, (mode, places, fields) in METHODS.items()}


def batch_norms(kind: type[nn.BatchNorm1d] = BatchNorm) -> dict:
    return {name: batch_norm(*inputs, kind=kind) for name, inputs in BATCH_NORMS.items()}


def evaluation(data: Path) -> dict:
    dataset = BenchmarkDataset(read_folder(data, "msls", split="val"), transform=evaluation_transform((SIDE, SIDE)))
    model = build_model(ModelConfig(backbone="dinov2-tiny"), seed=0)
    found = evaluator_of("rerank", 5, recall_values=(1, 5), batch_size=4)(model, dataset)
    return {"score": found.score(), "recalls": found.recalls(), "n_queries": found.listing.n_queries,
            **{name: torch.from_numpy(getattr(found, name)) for name in (
                "first", "first_distances", "final", "final_distances")}}


def separate_disks(folder: Path, data: Path) -> dict | None:
    """Descriptors where no process sees another's folder; in the first process."""
    dataset = BenchmarkDataset(read_folder(data, "msls", split="val"), transform=evaluation_transform((SIDE, SIDE)))
    found = extract(build_model(ModelConfig(backbone="dinov2-tiny"), seed=0), dataset, folder, branches=BRANCHES,
                    batch_size=4, num_workers=0, store="int8")
    if found.database is None:
        return None
    found.database.verify()
    assert found.cost["images"] == len(dataset)
    rows = [index.rows(range(len(index))) for index in (found.database, found.queries)]
    return {f"{side} {kind}": torch.from_numpy(row) for side, pair in zip(("database", "queries"), rows, strict=True)
            for kind, row in zip(("codes", "floats"), pair, strict=True)}


def exchanges() -> dict:
    """The small ones; process r brings the numbers 10 r, 10 r + 1, ..., r + 1 of them."""
    r = rank()
    rows = (10.0 * r + torch.arange(r + 1.0))[:, None].repeat(1, 3).requires_grad_()
    labels = 10 * r + torch.arange(r + 1)
    gathered, gathered_labels = distributed.gather(rows, labels)
    (gathered * torch.arange(1.0, len(gathered) + 1)[:, None]).sum().backward()
    collected = {}
    for count in (5, 1):
        own = distributed.own_share(count)
        part = torch.zeros(count, 2)
        part[own.start:own.stop] = torch.arange(float(own.start), own.stop)[:, None]
        distributed.collect(count, lambda start, stop, part=part: [part.numpy()[start:stop]],
                            lambda start, arrays, part=part: part[start:start + len(arrays[0])].copy_(
                                torch.from_numpy(arrays[0])))
        collected[count] = part
    model = nn.BatchNorm2d(2)
    nn.init.constant_(model.weight, r + 1)
    model.num_batches_tracked += r
    distributed.broadcast_weights(model)
    return {"rows": gathered.detach(), "labels": gathered_labels, "gradient": rows.grad, "collected": collected,
            "broadcast": distributed.broadcast({"from": r}), "total": distributed.total(r + 1.0),
            "largest": distributed.largest(-r), "share": distributed.own_share(5), "weights": model.state_dict()}


def main(number: int, folder: Path, data: Path) -> None:
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number)}
    distributed.start(torch.device("cpu"))

    def fetch() -> bool:
        there = (folder / "fetched").exists()
        (folder / "fetched").touch()
        return there

    found = {"there_already": distributed.first_on_each_node(fetch), "exchanges": exchanges(), "steps": steps(),
             "batch_norms": batch_norms(), "evaluation": evaluation(data),
             "separate_disks": separate_disks(folder / f"disk{rank()}", data)}
    torch.save(found, folder / f"{rank()}.pt")
    distributed.stop()


if __name__ == "__main__":
    importlib.import_module("torch._dynamo")  # by DistributedDataParallel it would be imported in both
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2",
                       "LOCAL_WORLD_SIZE": "2"}
    multiprocessing.start_processes(main, tuple(map(Path, sys.argv[1:])), nprocs=2, start_method="fork")
