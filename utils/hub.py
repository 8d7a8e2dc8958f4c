"""Models of other repositories, as torch.hub has them, made ready for our evaluation.

A hub repository's code runs in this process. Its modules are often called like ours (`model`, `utils`, `datasets`):
`HubModules` keeps the two apart.
"""

import ast
import contextlib
import dataclasses
import hashlib
import importlib.util
import logging
import os
import re
import sys
import urllib.error
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from datasets import BenchmarkDataset
from model import Descriptors
from model.checkpoint import tensor_bytes

from .distributed import first_on_each_node
from .search import ModelIdentity

log = logging.getLogger("selavprpp")

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = 8  # images of the set that a model is tried on
# Of a descriptor's length. In fp32 rounding moves it by less than 1e-6 from batch to batch (ResNet-50, VGG-16, ViT-B).
TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class HubOptions:
    """A model of another repository.

    repository     OWNER/REPO or OWNER/REPO:REF on GitHub, or a local folder, which starts with "/", "." or "~"
    entry          a function of the repository's hubconf.py, called with `arguments`
    normalisation  of its images: a key of datasets.NORMALISATIONS
    """

    repository: str
    entry: str
    arguments: Mapping[str, object]
    normalisation: str

    @classmethod
    def of(cls, words: Sequence[str], *, normalisation: str) -> "HubOptions":
        """From REPOSITORY:ENTRY and KEY=VALUE words; a value is a Python literal, else text.

        Raises ValueError for what is neither.
        """
        repository, _, entry = words[0].rpartition(":")
        if not entry.isidentifier() or not (
                _is_local(repository) or re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w./-]+)?", repository)):
            raise ValueError(f"--hub {words[0]!r}: expected OWNER/REPO:ENTRY, OWNER/REPO:REF:ENTRY or ./FOLDER:ENTRY")
        arguments: dict[str, object] = {}
        for word in words[1:]:
            key, equals, text = word.partition("=")
            if not equals or not key.isidentifier() or key in arguments:
                raise ValueError(f"--hub {words[0]} {word!r}: expected KEY=VALUE, each argument of {entry} once")
            try:
                arguments[key] = ast.literal_eval(text)
            except (ValueError, SyntaxError):
                arguments[key] = text
        return cls(repository=repository, entry=entry, arguments=arguments, normalisation=normalisation)

    def __str__(self) -> str:
        return f"{self.repository}:{self.entry}"

    def to_dict(self) -> dict:
        """Of what JSON can hold."""
        return {"repository": self.repository, "entry": self.entry, "normalisation": self.normalisation,
                "arguments": {key: value if isinstance(value, bool | int | float | str | None) else repr(value)
                              for key, value in self.arguments.items()}}


class HubOrigin(NamedTuple):
    """What a checkpoint of ours tells of its weights; of others' nothing is known but where they come from."""

    source: str
    pretrained: bool | None = None
    licence: str | None = None
    trainings: Sequence[dict] = ()


class HubModules:
    """The modules of a hub repository, which are there only inside `in_use`, where ours are not.

    Both may be called `model` or `utils`; libraries are shared. What theirs put on sys.path comes and goes with them.
    Not for several threads at once.
    """

    def __init__(self, folder: Path):
        libraries = [path for path in sys.path if Path(path).resolve() not in (ROOT, folder)]
        self._folder, self._path = folder, [str(folder), *libraries]
        self._libraries = {Path(path).resolve() for path in libraries}
        # A hub repository may load another one, whose modules lie in torch.hub's folder.
        self._folders = (folder, Path(torch.hub.get_dir()).resolve())
        self._ours = {path.stem for path in ROOT.iterdir() if path.is_dir() or path.suffix == ".py"}
        self._modules: dict[str, ModuleType] = {}

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        path, hidden = sys.path[:], _members(name for name in self._ours if _home(name) == ROOT)
        for name in hidden:
            del sys.modules[name]
        before = {*sys.modules}
        sys.modules.update(self._modules)
        sys.path[:] = self._path
        try:
            with contextlib.redirect_stdout(sys.stderr):  # on ours, programs read where the results are
                yield
        finally:
            new = {name.partition(".")[0] for name in sys.modules.keys() - before}
            self._path, self._modules = sys.path[:], _members(name for name in new if self._is_theirs(_home(name)))
            for name in self._modules:
                del sys.modules[name]
            sys.modules.update(hidden)
            sys.path[:] = path

    def _is_theirs(self, home: Path | None) -> bool:
        # A virtual environment may lie in their folder: what it holds are libraries.
        return home is not None and home not in self._libraries and any(map(home.is_relative_to, self._folders))

    @property
    def files(self) -> list[Path]:
        """hubconf.py and the files of what was imported so far, in the order of their names."""
        found = [getattr(module, "__file__", None) for _, module in sorted(self._modules.items())]
        return [self._folder / "hubconf.py", *(Path(file) for file in found if file)]


def _members(packages: Iterator[str]) -> dict[str, ModuleType]:
    """Top-level modules, and what lies in them."""
    wanted = {*packages}
    return {name: module for name, module in sys.modules.items() if name.partition(".")[0] in wanted}


def _home(name: str) -> Path | None:
    """The folder in which a top-level module's file or folder lies; None for one without."""
    module = sys.modules.get(name)
    place = next(iter(getattr(module, "__path__", [])), getattr(module, "__file__", None))
    return Path(place).resolve().parent if place else None


class HubModel(nn.Module):
    """A hub model as an `Extractor`: images (n, 3, H, W) float32, normalised, to descriptors (n, D) float32.

    Errors of the repository's code become a ValueError of one line.
    """

    code_bits = None
    taught = None

    def __init__(self, options: HubOptions, network: nn.Module, modules: HubModules):
        super().__init__()
        self.config, self.wrapped, self._theirs = options, network, modules

    def forward(self, images: Tensor) -> Tensor:
        return self._descriptors(self._outputs(images), len(images))

    def _outputs(self, images: Tensor) -> object:
        size = f" on images of {images.shape[2]} x {images.shape[3]} pixels (--resize)"
        with _explained(self.config, size), self._theirs.in_use():
            return self.wrapped(images)

    def _descriptors(self, out: object, n: int) -> Tensor:
        """The first tensor (n, D) of what the repository's model gives."""
        parts = out if isinstance(out, list | tuple) else [out]
        found = next((part for part in parts if isinstance(part, Tensor) and part.is_floating_point()
                      and part.ndim == 2 and len(part) == n), None)
        if found is None:
            raise ValueError(f"--hub {self.config}: from {n} images came {_said(out)}; expected a float tensor of "
                             f"descriptors ({n}, D), or a list or tuple that holds one")
        return found.float()

    def network(self, *, dtype: torch.dtype = torch.float32, compiled: bool = False) -> Callable[..., Descriptors]:
        """A function (images, branches) that extracts, under autocast where `dtype` is not float32."""
        if compiled:
            raise ValueError("--compile is for our own models; leave it out")

        @torch.inference_mode()
        def extract(images: Tensor, branches: Sequence[str] = ("float",)) -> Descriptors:
            with torch.autocast(images.device.type, dtype=dtype, enabled=dtype is not torch.float32):
                return Descriptors(floating=self(images))

        return extract

    @torch.inference_mode()
    def try_on(self, dataset: BenchmarkDataset, *, device: torch.device, batch_size: int) -> None:
        """Extracts some images of a set, in batches and one by one: finds the dimension D and what must be said."""
        images = torch.stack([dataset[i][0] for i in range(min(SAMPLE, dataset.n_database))]).to(device)
        in_batches = torch.cat([self(batch) for batch in images.split(batch_size)])
        outputs = [self._outputs(image[None]) for image in images]
        alone = torch.cat([self._descriptors(out, 1) for out in outputs])
        if not isinstance(outputs[0], Tensor):
            log.info("%s gives of an image %s; its descriptor is the first of shape (1, D)", self.config,
                     _said(outputs[0]))
        lengths = alone.norm(dim=1)
        change = float(((in_batches - alone).norm(dim=1) / lengths.clamp(min=1e-12)).max())
        shortest, longest = float(lengths.min()), float(lengths.max())
        if dataset.queries_vary:
            self(dataset[dataset.n_database][0][None].to(device))  # which it may refuse
        self.device, self.float_dim, self.warnings = device, alone.shape[1], []
        if change > TOLERANCE:
            self.warnings.append(
                f"{self.config} gives an image other descriptors in another batch: of {len(images)} images, in batches "
                f"of {min(batch_size, len(images))} and alone, they differ by up to {100 * change:.2g} % of their "
                f"length; extracted {batch_size} a batch, in the order of the data set")
        if max(1 - shortest, longest - 1) > TOLERANCE:
            self.warnings.append(f"descriptors of {self.config} are not of unit length ({shortest:.4g} to {longest:.4g}"
                                 f" on {len(images)} images); they are searched by L2 as they are")
        batches = f", {batch_size} a batch" if change > TOLERANCE else ""
        folder = Path(self.config.repository).expanduser().resolve().name  # wherever it lies
        self.identity = ModelIdentity(self._fingerprint(), f"{folder}:{self.config.entry}{batches}")
        self.record = {
            "backbone": None, "config": None, "fingerprint": self.identity.fingerprint,
            "hub": {**self.config.to_dict(), "float_dim": self.float_dim, "length": [shortest, longest],
                    "changed_by_batch": change, "batch_size": batch_size}}

    def _fingerprint(self) -> str:
        """sha256 over the arguments, the code that ran so far, and (name, shape, dtype, bytes) of the state dict."""
        digest = hashlib.sha256(repr((self.config.entry, sorted(self.config.arguments.items()))).encode())
        for file in self._theirs.files:
            digest.update(file.read_bytes())
        state = self.wrapped.state_dict()
        for part in tensor_bytes({name: value for name, value in state.items() if isinstance(value, Tensor)}):
            digest.update(part)
        return digest.hexdigest()


def hub_model(options: HubOptions, dataset: BenchmarkDataset, *, device: torch.device,
              batch_size: int) -> tuple[HubModel, HubOrigin]:
    """The model, on the device in eval mode, tried on images of the set that it will extract.

    The repository is fetched into torch.hub's folder, once, and its code runs: without a question, as nobody may be
    there to answer. Raises ValueError or FileNotFoundError, in one line, for what cannot be fetched, loaded or run.
    """
    model = first_on_each_node(lambda: _load(options, repository_folder(options))).to(device).eval()
    model.try_on(dataset, device=device, batch_size=batch_size)
    log.info("%s: descriptors of %d values, arguments %s", options, model.float_dim, dict(options.arguments))
    for warning in model.warnings:
        log.warning("%s", warning)
    return model, HubOrigin(str(options))


def _is_local(repository: str) -> bool:
    return repository.startswith(("/", ".", "~"))


def repository_folder(options: HubOptions) -> Path:
    """The one given, or torch.hub's copy, which is fetched if there is none.

    Raises FileNotFoundError or ValueError, in one line, where neither is to be had.
    """
    repository = options.repository
    if _is_local(repository):
        folder = Path(repository).expanduser().resolve()
        if not (folder / "hubconf.py").is_file():
            raise FileNotFoundError(f"--hub {options}: no {folder / 'hubconf.py'}; expected the folder of a torch.hub "
                                    "repository")
        return folder
    name, _, ref = repository.partition(":")
    hub = Path(torch.hub.get_dir()).resolve()
    # torch.hub's own rule: without a reference it is main or, in older repositories, master.
    copies = [hub / f"{name}/{branch}".replace("/", "_") for branch in ([ref] if ref else ["main", "master"])]
    reason: object = "nothing was written there"
    if not any(copy.is_dir() for copy in copies):
        log.info("fetching %s into %s", repository, hub)
        try:
            with HubModules(hub).in_use(), _unattended():
                torch.hub.list(repository, trust_repo=True)
        except Exception as error:  # of the network or of the repository's code, which says it again when it is loaded
            reason = f"{type(error).__name__}: {error}"
    found = next((copy for copy in copies if copy.is_dir()), None)
    if found is None:
        raise ValueError(f"--hub {options}: https://github.com/{name} cannot be fetched ({reason}); check the name, or "
                         f"without a network put a copy at {copies[0]} or give its folder, ./FOLDER:{options.entry}")
    log.info("%s: code in %s", options, found)
    return found


def _load(options: HubOptions, folder: Path) -> HubModel:
    """The entry's model, as torch.hub.load makes it; random weights are the same every time."""
    modules = HubModules(folder)
    with _explained(options), modules.in_use(), _unattended(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        spec = importlib.util.spec_from_file_location("hubconf", folder / "hubconf.py")
        hubconf = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(hubconf)
        lacking = [name for name in getattr(hubconf, "dependencies", []) if importlib.util.find_spec(name) is None]
        if lacking:
            raise ModuleNotFoundError(f"No module named {lacking[0]!r}", name=" ".join(lacking))
        entries = {name: value for name, value in vars(hubconf).items() if callable(value) and name[0] != "_"}
        network = entries[options.entry](**options.arguments) if options.entry in entries else None
    if options.entry not in entries:
        raise ValueError(f"--hub {options}: {folder / 'hubconf.py'} has no {options.entry}; it has "
                         f"{', '.join(sorted(entries)) or 'no entry'}")
    if isinstance(network, nn.DataParallel):
        network = network.module
    if not isinstance(network, nn.Module):
        raise ValueError(f"--hub {options} gave {_said(network)}; expected a torch.nn.Module that maps images "
                         "(n, 3, H, W) to descriptors (n, D)")
    return HubModel(options, network, modules)


@contextlib.contextmanager
def _explained(options: HubOptions, where: str = "") -> Iterator[None]:
    """Turns whatever a repository's code raises into one line."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ValueError(f"--hub {options} needs what is not installed: {error.name} ({error}); install it into the "
                         "environment of this project") from error
    except urllib.error.URLError as error:
        raise ValueError(f"--hub {options}: its files cannot be fetched ({error}); without a network put them into "
                         f"{Path(torch.hub.get_dir()) / 'checkpoints'}") from error
    except Exception as error:
        raise ValueError(f"--hub {options} failed{where}: {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def _unattended() -> Iterator[None]:
    """A question at the terminal, as torch.hub asks before it loads a nested repository, meets the end of input."""
    with Path(os.devnull).open() as nothing:
        before, sys.stdin = sys.stdin, nothing
        try:
            yield
        finally:
            sys.stdin = before


def _said(out: object) -> str:
    """What a model gives, in words."""
    if isinstance(out, Tensor):
        return f"a tensor {tuple(out.shape)} of {out.dtype}"
    if isinstance(out, list | tuple):
        return f"a {type(out).__name__} of ({', '.join(map(_said, out))})"
    if isinstance(out, Mapping):
        return f"a {type(out).__name__} with {', '.join(map(str, out))}"
    return f"a {type(out).__name__}"
