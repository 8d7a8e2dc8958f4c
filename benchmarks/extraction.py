"""Images described in a second: the plain path (plain.py) against `fast_inference`, in fp32 and bf16.

Weights are random and seeded, images random and in memory; all paths run alternately in one process.
"""

import functools

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from model import Descriptors, ModelConfig, SelaVPRpp, build_model, fast_inference
from model.layers.batch_norm import BatchNorm
from utils.device import synchronise

from .measure import alternate
from .plain import plain_extract
from .report import TYPES, Report, calibrate

SIZE = 322
GOALS = {"bf16 over plain": 5.0, "fp32 of the matrix rate": 0.7, "cosine": 0.999, "bits changed": 0.01, "folded": 1e-5}
LARGE_REPEATS = 3  # of a model whose plain path takes some 12 s a call on two cores


def rows(report: Report, *, device: torch.device, backbones: tuple[str, ...] = ("dinov2-base", "dinov2-large"),
         repeats: int = 5, batch: int = 8, compiled: bool = False) -> None:
    """Adds the calibration and the rows: the first backbone with the float branch, then with both, the others with the
    float branch. `compiled` adds bf16 with compiled blocks, whose first call takes minutes."""
    rates = calibrate(report, device)
    if device.type == "cpu":
        _convolution_rate(report)
    for number, backbone in enumerate(backbones):
        for branches in (("float",), ("float", "binary"))[:1 if number else 2]:
            _case(report, backbone, branches, rates, device=device, repeats=min(repeats, LARGE_REPEATS) if number else
                  repeats, batch=batch, compiled=compiled)


def _case(report: Report, backbone: str, branches: tuple[str, ...], rates: dict[str, float], *, device: torch.device,
          repeats: int, batch: int, compiled: bool) -> None:
    model = _with_statistics(build_model(ModelConfig(backbone=backbone, branches=branches), seed=0)).to(device).eval()
    images = _images(batch).to(device)
    describe = {"plain fp32": functools.partial(plain_extract, model)}
    describe |= {f"ours {name}": fast_inference(model, dtype=dtype) for name, dtype in TYPES.items()}
    if compiled:
        describe["compiled bf16"] = fast_inference(model, dtype=torch.bfloat16, compiled=True)
    found: dict[str, Descriptors] = {}

    def run(name: str) -> None:
        found[name] = describe[name](images, branches)
        synchronise(device)

    with FlopCounterMode(display=False) as counter:
        plain_extract(model, images[:1], branches)
    flops = batch * counter.get_total_flops()
    name = f"{backbone}, {'two branches' if len(branches) > 1 else branches[0]}, {batch} x {SIZE}"
    seconds = report.keep(f"extraction, {name}",
                          alternate({run_name: functools.partial(run, run_name) for run_name in describe},
                                    repeats=repeats))
    plain = seconds.pop("plain fp32")
    report.add(f"{name}, plain fp32", "", f"{batch / plain:.2f} images/s",
               f"{flops / 1e9:.0f} GFLOP; {100 * flops / rates['fp32'] / plain:.0f} % of the matrix rate", None)
    for path, taken in seconds.items():
        precision = path.split()[1]
        floor = flops / rates[precision]
        judged = precision == "bf16"
        report.add(f"{name}, {path}, over plain", f">= {GOALS['bf16 over plain']:g}" if judged else "",
                   f"{plain / taken:.2f}",
                   f"{batch / taken:.2f} images/s; the products alone at the matrix rate would give "
                   f"{plain / floor:.2f}", plain / taken >= GOALS["bf16 over plain"] if judged else None)
        judged = precision == "fp32"
        report.add(f"{name}, {path}, share of the matrix rate", ">= 70 %" if judged else "",
                   f"{100 * floor / taken:.0f} %", "", floor / taken >= GOALS["fp32 of the matrix rate"] if judged
                   else None)
        _agreement(report, f"{name}, {path}", precision, found["plain fp32"], found[path])


def _convolution_rate(report: Report, side: int = 2048) -> None:
    """The same product by the library that does ours: where the processor is not Intel's, torch's own is slower."""
    maps = torch.randn(1, side, side, 1).to(memory_format=torch.channels_last)
    weight = torch.randn(side, side, 1, 1)
    seconds = report.keep("calibration", alternate({"convolution": lambda: F.conv2d(maps, weight)}, repeats=9))
    report.add(f"the same as a 1x1 convolution (oneDNN), {side}^3, fp32", "",
               f"{2 * side**3 / seconds['convolution'] / 1e9:.0f} GFLOP/s", "calibration", None)


def _agreement(report: Report, name: str, precision: str, exact: Descriptors, ours: Descriptors) -> None:
    for field in ("floating", "relaxed"):
        a, b = getattr(exact, field), getattr(ours, field)
        if a is None:
            continue
        if precision == "fp32":
            apart = (a - b).abs().max().item()
            report.add(f"{name}, {field}, BatchNorm folded to unfolded", "<= 1e-5", f"{apart:.1e}",
                       "largest difference", apart <= GOALS["folded"])
        else:
            cosine = F.cosine_similarity(a, b).min().item()
            report.add(f"{name}, {field}, cosine to fp32", ">= 0.999", f"{cosine:.6f}", "the least",
                       cosine >= GOALS["cosine"])
    if exact.relaxed is not None:
        # With random weights all images' codes are nearly one; a trained code's bits are +1 for about half of them.
        centre = exact.relaxed.mean(dim=0)
        code, others, rough = (x >= centre for x in (exact.relaxed, exact.relaxed.roll(1, dims=0), ours.relaxed))
        changed = _apart(code, rough)
        report.add(f"{name}, bits changed, about the images' mean", "< 1 %", f"{100 * changed:.3f} %",
                   f"two images: {100 * _apart(code, others):.0f} %; about 0: "
                   f"{100 * _apart(exact.binary, ours.binary):.3f} %", changed < GOALS["bits changed"])


def _apart(a: Tensor, b: Tensor) -> float:
    return (a != b).float().mean().item()


def _images(count: int) -> Tensor:
    """Unlike one another, as photographs are and noise is not: a tint, coarse shapes, a texture."""
    generator = torch.Generator().manual_seed(0)
    tint, shapes, texture = (torch.randn(count, 3, side, side, generator=generator) for side in (1, 6, SIZE))
    return tint + F.interpolate(shapes, (SIZE, SIZE), mode="bicubic") + 0.3 * texture


def _with_statistics(model: SelaVPRpp) -> SelaVPRpp:
    """As after a training: BatchNorms whose folding would be seen if it were wrong."""
    generator = torch.Generator().manual_seed(0)
    for norm in model.modules():
        if isinstance(norm, BatchNorm):
            norm.running_mean.normal_(0, 0.1, generator=generator)
            norm.running_var.uniform_(0.5, 1.5, generator=generator)
    return model
