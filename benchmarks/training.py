"""Seconds and bytes of a training step: `python -m benchmarks.training [--device cuda] [--backbone NAME ...]`.

Every figure is set against the plain path (plain.py) or a floor measured in the same run, alternately, in one process,
with the images in memory. Prints the rows and writes them, with every sample, into training.json and training.md.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from losses import mine_pairs, multi_similarity_loss, similarity_constrained_loss
from model import BACKBONES, ModelConfig, build_model
from model.config import DINOV2
from utils.device import PRECISIONS, pick_device, synchronise
from utils.run import exit_with
from utils.training.memory import step_memory

from .plain import plain_forward
from .report import MIB, TYPES, Report, calibrate, command_parser

SIZE = 224
PUBLISHED_MIB = {"dinov2-base": 32.74, "dinov2-large": 56.21}  # fp32, measured on the published code
GOAL_MIB = {("dinov2-base", "bf16"): 6.5, ("dinov2-large", "bf16"): 11.0,
            ("dinov2-base", "fp32"): 13.0, ("dinov2-large", "fp32"): 22.0}
BATCHES = {"cpu": (16,), "cuda": (160, 480)}  # images a step
CPU_RUNS = ("plain fp32", "ours fp32", "kept fp32", "ours bf16", "kept bf16")
GPU_RUNS = ("plain fp16", "ours bf16", "ours fp16", "ours fp32", "kept bf16", "compiled bf16", "frozen bf16")
# The paper's Table VI, hours an epoch of MultiConv over those of the frozen model, 40 places of 4 images.
PAPER_OVER_FROZEN = {"dinov2-base": 1.015, "dinov2-large": 1.36}


class Step:
    """A training step of one script, without the optimiser, on images in memory; `kind` says by which path.

    kinds  plain: the published order of operations; kept: our modules, everything saved; ours: the same, recomputed;
           compiled: ours with the backbone compiled; frozen: the head alone is trained, on the backbone's last level
    """

    def __init__(self, backbone: str, script: str, images: int, device: torch.device, *, size: int,
                 fields: Mapping[str, object] | None = None):
        """Of images of size x size pixels; fields: of ModelConfig, the paper's final method else."""
        self.script, self.device = script, device
        self.branch = "float" if script == "train" else "binary"
        self.model = build_model(ModelConfig(
            backbone=backbone, branches=("float", "binary") if script == "train_rerank" else (self.branch,),
            **fields or {}), seed=0)
        if script == "train_rerank":
            self.model.freeze("float_branch")
        self.model.to(device).train()
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(images, 3, size, size, generator=generator).to(device)
        self.labels = torch.arange(images, device=device) // 4

    def prepared(self, name: str) -> contextlib.AbstractContextManager:
        """Around the run "<kind> <precision>": the frozen weights as a training holds them through an epoch."""
        kind, precision = name.split()
        dtype = torch.bfloat16 if precision == "bf16" and kind != "plain" else torch.float32
        return self.model.backbone.rounded(dtype, compiled=kind == "compiled")

    def runs(self, names: Iterable[str]) -> dict[str, Callable[[], None]]:
        return {name: functools.partial(self, *name.split()) for name in names}

    def forward(self, kind: str, precision: str) -> tuple[Tensor, Tensor | None]:
        model, dtype = self.model, PRECISIONS[precision]
        model.recompute = kind != "kept"
        with torch.autocast(self.device.type, dtype, enabled=precision != "fp32"):
            if kind == "plain":
                return plain_forward(model, self.images, self.branch)
            if kind == "frozen":
                *_, tokens = model.backbone.stream_tokens(self.images)
                output = model.branch(self.branch).head(model.backbone.norm(tokens), model.backbone.grid(self.images))
                return output, None
            out = model(self.images, branches=(self.branch,))
            return (out.floating, None) if self.branch == "float" else (out.relaxed, out.binary)

    def __call__(self, kind: str, precision: str) -> None:
        self.model.zero_grad(set_to_none=True)
        output, binary = self.forward(kind, precision)
        described = output if binary is None else binary
        pairs = mine_pairs(described, self.labels)
        loss = multi_similarity_loss(described, pairs)
        if binary is not None:
            loss = loss + 0.1 * similarity_constrained_loss(output, binary, pairs)
        loss.backward()
        synchronise(self.device)

    def gradient(self, kind: str, precision: str, given: Tensor) -> Tensor:
        """Of <output, given>, in one row: signs and mined pairs would turn a rounding into another loss."""
        self.model.zero_grad(set_to_none=True)
        with self.prepared(f"{kind} {precision}"):
            self.forward(kind, precision)[0].backward(given)
        return torch.cat([p.grad.flatten() for p in self.model.parameters() if p.grad is not None]).double()

    def saved_mib(self, kind: str, precision: str) -> float:
        with self.prepared(f"{kind} {precision}"):
            own = [*self.model.parameters(), *self.model.buffers()]
            return saved_bytes(lambda: self.forward(kind, precision), excluded=own) / len(self.images) / MIB


def saved_bytes(forward: Callable[[], object], *, excluded: Iterable[Tensor]) -> int:
    """Bytes of the distinct storages that autograd keeps from a forward pass, without those of `excluded`.

    The same rule as for the published code's 32.7 and 56.2 MiB an image: parameters and buffers do not count.
    """
    counted = {id(tensor.untyped_storage()) for tensor in excluded}
    sizes, alive = {}, []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if id(storage) not in counted:
            sizes[id(storage)] = storage.nbytes()
            alive.append(tensor)  # a storage counts once, so its id must not be used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(sizes.values())


def main(argv: list[str] | None = None) -> None:
    parser = command_parser(__spec__.name, __doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    known = [name for name, vit in BACKBONES.items() if vit.family is DINOV2]  # as is the plain path
    parser.add_argument("--backbone", choices=known, nargs="+", help="default: base and large")
    args = parser.parse_args(argv)
    device = pick_device(args.device)
    report = Report()
    rates = calibrate(report, device)
    backbones = args.backbone or ["dinov2-base", "dinov2-large"]
    if device.type == "cpu":
        for backbone in backbones:
            saved(report, backbone)
    for script in ("train", "train_rerank"):
        for backbone in backbones if device.type == "cuda" else backbones[:1]:
            for images in BATCHES[device.type]:
                steps(report, backbone, script, images, rates, device, size=SIZE)
    agreement(report, backbones[0], device)
    losses(report, device)
    report.write(args.out / "training.md", device)


def saved(report: Report, backbone: str) -> None:
    """Bytes kept for the gradient of an image."""
    step = Step(backbone, "train", 2, torch.device("cpu"), size=SIZE)
    plain, published = step.saved_mib("plain", "fp32"), PUBLISHED_MIB.get(backbone)
    within = None if published is None else abs(plain / published - 1) <= 0.1
    report.add(f"saved an image, {backbone}, plain path, fp32", f"{plain:.2f} MiB", "the published code's",
               goal=f"{published} +- 10 %" if published else "", met=within)
    for precision, dtype in TYPES.items():
        measured = step.saved_mib("ours", precision)
        told = step_memory(step.model, images=2, size=(SIZE, SIZE), dtype=dtype, device=step.device).kept / 2 / MIB
        goal = GOAL_MIB.get((backbone, precision))
        vit = BACKBONES[backbone]
        inputs = (vit.depth - step.model.config.first_level) * (1 + (SIZE // vit.patch)**2) * vit.dim * dtype.itemsize
        report.add(f"saved an image, {backbone}, {precision}", f"{measured:.2f} MiB",
                   f"inputs alone {inputs / MIB:.1f}; plain / ours {plain / measured:.1f}; told beforehand {told:.2f}",
                   goal=f"<= {goal} MiB" if goal else "", met=None if goal is None else measured <= goal)


def steps(report: Report, backbone: str, script: str, images: int, rates: dict[str, float], device: torch.device, *,
          size: int) -> None:
    """Seconds of a step by every path, and on a GPU its most bytes, Adam's moments aside."""
    step, name = Step(backbone, script, images, device, size=size), f"{script}.py, {backbone}, {images} x {size}"
    with FlopCounterMode(display=False) as counter:
        Step(backbone, script, 4, device, size=size)("plain", "fp32")
    flops = counter.get_total_flops() * images / 4
    report.add(f"{name}, plain path", f"{flops / 1e9:.0f} GFLOP")
    peaks: dict[str, int | None] = dict.fromkeys(CPU_RUNS if device.type == "cpu" else GPU_RUNS, 0)
    for run in peaks if device.type == "cuda" else ():
        started = time.perf_counter()
        with step.prepared(run):
            peaks[run] = gpu_peak(functools.partial(step, *run.split()), device)
        if run.startswith("compiled"):
            report.add(f"{name}, the first compiled step", f"{time.perf_counter() - started:.1f} s")
    fitting = [run for run, peak in peaks.items() if peak is not None]
    seconds = report.medians(f"{script}, {backbone}, {images}", step.runs(fitting), around=step.prepared)
    for run in peaks:
        if run not in seconds:
            report.add(f"{name}, {run}", "does not fit")
            continue
        taken, floor = seconds[run], flops / rates[run.split()[1]]
        beside = f"{images / taken:.0f} images/s; floor at the matrix rate {floor:.3f} s: {100 * floor / taken:.0f} %"
        report.add(f"{name}, {run}", f"{taken:.3f} s", f"{peaks[run] / 1e9:.2f} GB; {beside}" if peaks[run] else beside)

    def ratio(what: str, over: str, under: str, most: float) -> None:
        if seconds.keys() >= {over, under}:
            found = seconds[over] / seconds[under]
            report.add(f"{name}, {what}", f"{found:.3f}", f"{over} / {under}", goal=f"<= {most}", met=found <= most)

    ratio("cost of saving memory", "ours bf16", "kept bf16", 1.1)
    if device.type == "cpu":
        ratio("cost of saving memory, fp32", "ours fp32", "kept fp32", 1.1)
        ratio("step over the published order", "ours bf16", "plain fp32", 0.25)
        report.matrix_share(f"{name}, ours fp32", flops / rates["fp32"] / seconds["ours fp32"], least=0.7)
        return
    ratio("step over the published order", "ours bf16", "plain fp16", 0.4)
    paper, peak, taken = PAPER_OVER_FROZEN.get(backbone), peaks["ours bf16"], seconds.get("ours bf16")
    if taken and images == 480:
        over = taken / (flops / rates["bf16"])
        report.add(f"{name}, step over the floor", f"{over:.2f}", goal="<= 2", met=over <= 2)
    if taken and images == 160 and paper and script == "train" and "frozen bf16" in seconds:
        over = taken / seconds["frozen bf16"]
        report.add(f"{name}, ours over frozen", f"{over:.3f}", "the paper's Table VI", goal=f"< {paper}",
                   met=over < paper)
    if peak and images == 480 and backbone == "dinov2-large":
        told = step_memory(step.model, images=images, size=(size, size), dtype=torch.bfloat16, device=device).peak
        report.add(f"{name}, peak", f"{peak / 1e9:.2f} GB", f"told before a training {told / 1e9:.2f}, Adam included",
                   goal="<= 8 GB", met=peak <= 8e9)


def gpu_peak(run: Callable[[], object], device: torch.device) -> int | None:
    """Most bytes allocated on a GPU while it runs; None where it does not fit."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    try:
        run()
    except torch.cuda.OutOfMemoryError:
        return None
    return torch.cuda.max_memory_allocated(device)


def agreement(report: Report, backbone: str, device: torch.device) -> None:
    """Cosines between bf16 and fp32: of descriptors, and of gradients for one gradient of the descriptors."""
    for script in ("train", "train_rerank"):
        step = Step(backbone, script, 8, device, size=SIZE)
        with torch.no_grad():
            exact = step.forward("ours", "fp32")[0]
            with step.prepared("ours bf16"):
                rough = step.forward("ours", "bf16")[0]
        given = torch.randn(exact.shape, generator=torch.Generator().manual_seed(0)).to(device)
        kept, ours, low = (step.gradient(*how, given) for how in (
            ("kept", "fp32"), ("ours", "fp32"), ("ours", "bf16")))
        report.cosine(f"{script}.py, {backbone}, output's cosine, bf16 to fp32", exact, rough)
        report.cosine(f"{script}.py, {backbone}, gradient's cosine, bf16 to fp32", low, kept,
                      f"fp32, ours to everything kept: {((ours - kept).norm() / kept.norm()).item():.1e} relative")


def losses(report: Report, device: torch.device) -> None:
    """Mining, loss and gradient of 480 images of 2048-d; their floor is three products of n x n x d."""
    n_places, d = 120, 2048
    generator = torch.Generator().manual_seed(0)
    near = torch.randn(n_places, 1, d, generator=generator) + torch.randn(n_places, 4, d, generator=generator)
    # A shared direction: without it hardly any negative would be near enough to be mined.
    shared = F.normalize(torch.randn(d, generator=generator), dim=0)
    x = F.normalize(shared + 0.5 * F.normalize(near, dim=-1).flatten(0, 1), dim=1).to(device).requires_grad_()
    labels = torch.arange(n_places, device=device).repeat_interleave(4)

    def loss_and_gradient() -> None:
        x.grad = None
        multi_similarity_loss(x, mine_pairs(x, labels)).backward()
        synchronise(device)

    def product() -> None:
        x.detach() @ x.detach().T
        synchronise(device)

    seconds = report.medians("losses", {"loss": loss_and_gradient, "product": product}, repeats=30)
    goal = {"goal": "<= 30 ms", "met": seconds["loss"] <= 0.03} if device.type == "cpu" else {}
    report.add("mining, loss and gradient, 480 x 2048", f"{1000 * seconds['loss']:.1f} ms",
               f"floor: three products, {3000 * seconds['product']:.1f} ms", **goal)


if __name__ == "__main__":
    exit_with(main)
