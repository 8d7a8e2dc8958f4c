"""Writes a model for programs without this project, and checks it against the model before it takes its name.

    python -m utils.export_model FILE                            FILE's name with .onnx, for onnxruntime and others
    python -m utils.export_model FILE --format torch_export      .pt2, for torch alone
    python -m utils.export_model FILE --preprocess               takes photographs as they are, of any size

docs/onnx.md shows a program that retrieves with such a file.
"""

import contextlib
import importlib.util
import io
import json
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from datasets.transforms import DEFAULT_NORMALISATION, NORMALISATIONS, evaluation_transform
from model import BRANCHES, Checkpoint, Descriptors, SelaVPRpp, fingerprint, load_model
from model.exportable import averaging, exportable, resample, triangle

from .cli.parsing import Defaults, Parser, positive, size_help
from .data import EvaluationImages, fitting
from .files import checked_file
from .models import read_model
from .run import exit_with, start_log

log = logging.getLogger("selavprpp")
SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2"}
TOLERANCE = 1e-4  # L2 distance of a descriptor of unit length; codes are compared where values are farther from 0
ABOUT = "selavprpp.json"  # what a .pt2 says of itself
# A protocol buffer holds 2 GiB; above, an .onnx file has its weights in a file of their own.
LARGEST = 2**31 - 2**24
# Of grids of patches: the one that is traced, and those that an exported file is compared at.
TRACED, COMPARED = (16, 13), ((23, 23), (11, 17))
PHOTOGRAPHS = (95, 121), ((67, 203), (480, 360))  # the same of photographs' pixels


class _Graph(nn.Module):
    """What is exported: images -> the descriptors of `branches` by their names in `Descriptors`."""

    def __init__(self, network: SelaVPRpp, branches: Sequence[str], size: tuple[int, int] | None):
        super().__init__()
        self.network, self.branches, self.size = network, branches, size

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        if self.size is not None:
            images = _prepared(images, self.size)
        return {name: values for name, values in self.network(images, self.branches)._asdict().items()
                if values is not None}


def _prepared(photographs: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, *size), as datasets.evaluation_transform to 1e-5."""
    mean, std = (torch.tensor(values) for values in NORMALISATIONS[DEFAULT_NORMALISATION])
    images = (photographs.float() / 255 - mean) / std
    down, across = (averaging(photographs.shape[side], size[side - 1], triangle) for side in (1, 2))
    return resample(images.permute(0, 3, 1, 2), down, across)


def export_model(path: Path, output: Path, *, format: str = "onnx", branches: Sequence[str] | None = None,
                 batch: int | None = None, size: Sequence[int] | None = None, preprocess: bool = False
                 ) -> dict[str, object]:
    """Writes the model of a file, ours or published, to `output`; returns what that says of itself.

    branches    of the model; None: all it has
    batch       images at a time; None: any number
    size        (H, W) in pixels, moved to the patch's multiples; None: any of at least two patches a side (SALAD: nine)
    preprocess  the graph takes uint8 (B, H, W, 3) RGB of any size, normalises, and resizes to `size`, by default
                that of evaluations

    What was written is run by onnxruntime, or by torch, beside the model itself, on sizes that it was not traced at:
    descriptors must agree to TOLERANCE, and codes where their values are farther from 0. Raises ValueError, and writes
    nothing, where they do not, where the model cannot be exported, and for packages that are missing.
    """
    _check_packages(format)
    if format == "torch_export" and output.suffix != ".pt2":
        raise ValueError(f"--output {output}: torch reads .pt2 files; expected that ending")
    if output.resolve() == path.resolve():
        raise ValueError(f"--output {output} is the model file itself; give another")
    checked_file(output, "--output")
    checkpoint = read_model(path)
    config, patch = checkpoint.config, checkpoint.config.vit.patch
    names = tuple(name for name in BRANCHES if name in (branches or config.branches))
    missing = [name for name in names if name not in config.branches]
    if missing:
        raise ValueError(f"--branches {' '.join(missing)}: {path} holds a {' + '.join(config.branches)} model")
    if preprocess and size is None:
        size = EvaluationImages.size
    fixed = None
    if size is not None:
        height, width = fitting(size, patch, "--resize")
        fixed = height, width
    model = load_model(checkpoint)
    graph = _Graph(exportable(model, size=fixed), names, fixed if preprocess else None).eval()
    about = _about(model, checkpoint, names, size=fixed, preprocess=preprocess)
    least = 9 if "float" in names and config.aggregation == "salad" else 2
    traced = PHOTOGRAPHS[0] if preprocess else fixed or (TRACED[0] * patch, TRACED[1] * patch)
    dynamic: dict[int, object] = {} if batch else {0: torch.export.Dim("batch", min=1, max=64)}
    if preprocess:
        dynamic |= {1: torch.export.Dim("height", min=2, max=2**16), 2: torch.export.Dim("width", min=2, max=2**16)}
    elif fixed is None:
        dynamic |= {2: patch * torch.export.Dim("rows", min=least, max=2**12),
                    3: patch * torch.export.Dim("columns", min=least, max=2**12)}
    if preprocess:
        compared: Sequence[tuple[int, int]] = PHOTOGRAPHS[1]
    else:
        compared = [fixed, fixed] if fixed else [(rows * patch, columns * patch) for rows, columns in COMPARED]
    worst = 0.0
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
        written = Path(folder) / output.name
        try:
            _write(graph, _images(batch or 2, traced, preprocess), dynamic, about, written, format)
            run = _onnxruntime(written) if format == "onnx" else _torch(written)
            for count, pixels in zip((batch or 1, batch or 3), compared, strict=True):
                worst = max(worst, compare(model, names, run, _images(count, pixels, preprocess), size=fixed))
        except ImportError as error:  # of parts that onnxscript has for some versions of torch
            raise ValueError(f"torch {torch.__version__} needs another onnxscript ({error}): pip install --upgrade "
                             "onnxscript") from error
        except (AssertionError, RuntimeError) as error:  # the first: sizes that an exported program turns out to refuse
            raise ValueError(f"{path}: this {config.backbone} {config.aggregation} model cannot be exported so "
                             f"({' '.join(str(error).split())[:200]}); try a fixed --batch or --resize, or another "
                             "--format") from error
        for file in sorted(Path(folder).iterdir(), key=lambda file: file == written):  # the one that names it last
            file.replace(output.with_name(file.name))
    log.info("%s: %s, equal to %.1e at %s", output, about["model"], worst,
             ", ".join(f"{height} x {width}" for height, width in dict.fromkeys(compared)))
    return about


def _check_packages(format: str) -> None:
    packages = ("onnx", "onnxruntime", "onnxscript") if format == "onnx" else ()
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"--format onnx needs optional packages: pip install {' '.join(missing)}")


def _about(model: SelaVPRpp, checkpoint: Checkpoint, branches: Sequence[str], *, size: tuple[int, int] | None,
           preprocess: bool) -> dict[str, object]:
    config = model.config
    mean, std = NORMALISATIONS[DEFAULT_NORMALISATION]
    images = "uint8 (batch, height, width, 3), RGB" if preprocess else "float32 (batch, 3, height, width), normalised"
    return {"model": f"{config.backbone} {config.aggregation}", "fingerprint": fingerprint(model),
            "branches": branches, "images": images, "size": size, "patch": config.vit.patch,
            "normalisation": {"mean": mean, "std": std}, "pretrained": checkpoint.pretrained,
            "licence": config.licence(pretrained=checkpoint.pretrained)}


def _images(count: int, size: tuple[int, int], photographs: bool) -> Tensor:
    """Noise: what the graph takes."""
    generator = torch.Generator().manual_seed(sum(size))
    if photographs:
        return torch.randint(0, 256, (count, *size, 3), generator=generator, dtype=torch.uint8)
    return torch.randn(count, 3, *size, generator=generator)


def _write(graph: _Graph, images: Tensor, dynamic: dict[int, object], about: dict[str, object], path: Path,
           format: str) -> None:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's, on its own code
        program = torch.export.export(graph, (images,), dynamic_shapes=(dynamic,), strict=False)
        if format == "torch_export":
            torch.export.save(program, path, extra_files={ABOUT: json.dumps(about)})
            return
        outputs = [name for branch, fields in (("binary", ("relaxed", "binary")), ("float", ("floating",)))
                   if branch in graph.branches for name in fields]
        with contextlib.redirect_stdout(io.StringIO()):
            exported = torch.onnx.export(program, dynamo=True, verbose=False, input_names=["images"],
                                         output_names=outputs)
    assert exported is not None
    exported.model.metadata_props.update({name: value if isinstance(value, str) else json.dumps(value)
                                          for name, value in about.items()})
    weights = sum(p.numel() * p.element_size() for p in graph.parameters())
    exported.save(path, external_data=weights > LARGEST)


def _onnxruntime(path: Path) -> Callable[[Tensor], dict[str, np.ndarray]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(images: Tensor) -> dict[str, np.ndarray]:
        try:
            return dict(zip(names, session.run(names, {"images": images.numpy()}), strict=True))
        except Exception as error:  # onnxruntime's own have no other base
            raise RuntimeError(str(error)) from error

    return run


def _torch(path: Path) -> Callable[[Tensor], dict[str, np.ndarray]]:
    network = torch.export.load(path).module()
    return lambda images: {name: values.detach().numpy() for name, values in network(images).items()}


@torch.no_grad()
def compare(model: Callable[..., Descriptors], branches: Sequence[str], run: Callable[[Tensor], dict[str, np.ndarray]],
            images: Tensor, *, size: tuple[int, int] | None) -> float:
    """The largest L2 distance between descriptors of a model and those by their names of what was exported of it.

    images  as that takes them; uint8 photographs are resized to `size` for the model
    Raises ValueError where one is above TOLERANCE, and where codes differ whose values are farther from 0.
    """
    prepared = images
    if images.dtype == torch.uint8 and size is not None:
        transform = evaluation_transform(size)
        prepared = torch.stack([transform(Image.fromarray(image)) for image in images.numpy()])
    wanted = model(prepared, branches)
    found = run(images)
    worst = 0.0
    where = f"at {tuple(images.shape)}"
    for name in ("relaxed", "floating"):
        if (values := getattr(wanted, name)) is not None:
            distance = float(np.linalg.norm(found[name] - values.numpy(), axis=1).max())
            if not distance <= TOLERANCE:
                raise ValueError(f"what was exported is not the model: {name} descriptors are {distance:.1e} apart "
                                 f"{where}, expected at most {TOLERANCE:g}; nothing was written")
            worst = max(worst, distance)
    if wanted.binary is not None and wanted.relaxed is not None:
        differing = (found["binary"] != wanted.binary.numpy()) & (wanted.relaxed.abs().numpy() > TOLERANCE)
        if differing.any():
            raise ValueError(f"what was exported is not the model: {differing.sum()} bits of its codes differ {where}; "
                             "nothing was written")
    return worst


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(prog="python -m utils.export_model", description=__doc__.splitlines()[0], allow_abbrev=False,
                    formatter_class=Defaults)
    parser.add_argument("file", type=Path, metavar="FILE", help="model file, ours or published")
    parser.add_argument("--format", choices=SUFFIXES, default="onnx", help="what is written")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: FILE's name with .onnx or .pt2")
    parser.add_argument("--branches", nargs="+", choices=BRANCHES, help="default: what FILE has")
    parser.add_argument("--batch", type=positive, metavar="N", help="images at a time; default: any number")
    parser.add_argument("--resize", type=positive, nargs=2, metavar=("H", "W"), help=(
        f"of images, {size_help(EvaluationImages.size)} with --preprocess, else any"))
    parser.add_argument("--preprocess", action="store_true", help=(
        "take uint8 photographs (B, H, W, 3) of any size; normalising and resizing to --resize become part of it"))
    given = parser.parse_args(argv)
    start_log()
    started = time.perf_counter()
    output = given.output or given.file.with_suffix(SUFFIXES[given.format])
    export_model(given.file, output, format=given.format, branches=given.branches, batch=given.batch,
                 size=given.resize, preprocess=given.preprocess)
    log.info("%.0f MB in %.0f s", output.stat().st_size / 1e6, time.perf_counter() - started)


if __name__ == "__main__":
    exit_with(main)
