"""Checkpoint files: reading ours and the published ones safely, loading strictly, exporting, writing."""

import ctypes
import dataclasses
import errno
import hashlib
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .config import BACKBONES, DINOV2, ModelConfig
from .files import temporary_path
from .network import SelaVPRpp
from .published_names import to_own_names, to_published_names
from .selavpr.config import SelaVPRConfig
from .selavpr.network import SelaVPR

FORMAT = "selavprpp"
FORMATS = {FORMAT: "SelaVPR++", "selavpr": "SelaVPR"}
VERSION = 1

Config = TypeVar("Config", ModelConfig, SelaVPRConfig)
Model = TypeVar("Model", SelaVPRpp, SelaVPR)


class CheckpointError(ValueError):
    """A file or state dict that does not fit; the message is one line: what, where, what to do."""


class DamagedCheckpointError(CheckpointError):
    """A file that cannot be read as a checkpoint: torn, changed bytes, or of another kind."""


@dataclasses.dataclass(frozen=True)
class Checkpoint(Generic[Config]):
    """A model file as read, its state dict in our names.

    config      of the model; inferred from names and shapes where the file holds none
    pretrained  whether the backbone holds released weights; None: the file does not say
    training    what the training script needs to resume, None in files of other origin
    history     the trainings that its weights come from, as in `trainings`, where the file keeps no state to resume
    """

    config: Config
    state_dict: dict[str, Tensor]
    pretrained: bool | None = None
    training: dict | None = None
    source: str = "state dict"
    history: Sequence[dict] = ()

    @property
    def earlier(self) -> list[dict]:
        """The trainings that this one began with, oldest first: that of a first branch, where it trained a second."""
        return [*self.history, *(self.training or {}).get("earlier", [])]

    @property
    def licence(self) -> str | None:
        """Which the weights inherit, see `ModelConfig.licence`."""
        return self.config.licence(pretrained=self.pretrained)

    @property
    def trainings(self) -> list[dict]:
        """Every training that these weights come from, oldest first, as far as the file tells: "script", "data" (the
        places it saw), "precision", "validation" sets, "selected_by" (which of them chose), "epoch"."""
        told = ("script", "data", "precision", "validation", "selected_by", "epoch")
        return self.earlier + ([{name: self.training.get(name) for name in told}] if self.training else [])


class _NumpyStub:
    """Takes the place of NumPy's classes in published training files, whose recalls are arrays: read, then ignored.

    With it `weights_only=True` stays on, nothing of NumPy runs, and NumPy need not be installed.
    """

    def __init__(self, *_):
        pass

    def __setstate__(self, state):
        pass


_NUMPY_STUBS: list = [
    (_NumpyStub, f"numpy.{name}")
    for name in ("ndarray", "dtype", "core.multiarray._reconstruct", "core.multiarray.scalar",
                 "_core.multiarray._reconstruct", "_core.multiarray.scalar")
]


def read_file(path: str | Path, *, mapped: bool = False) -> dict:
    """The dictionary in a torch file, on the CPU, with weights_only=True. Files in torch's zip format are verified by
    the checksums in them, which torch writes but does not read; files in the format before it have none.

    mapped  tensors are read when they are used, and not verified: for whoever knows the model's fingerprint

    Raises FileNotFoundError, DamagedCheckpointError, or CheckpointError for a file that asks to run code or holds no
    dictionary.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint file at {path}")
    damaged = DamagedCheckpointError(f"{path}: not a readable torch checkpoint (damaged, or another kind of file); "
                                     "copy or fetch it again, or give another")
    try:
        archive = _verify(path, checksums=not mapped)
        with torch.serialization.safe_globals(_NUMPY_STUBS):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and archive)
    except DamagedCheckpointError:
        raise
    except OSError as error:
        if error.errno == errno.EINVAL:  # a damaged file names places that none can have
            raise damaged from None
        raise  # the disk's trouble, not the file's
    except Exception as error:  # damaged bytes raise nearly anything: struct.error, AssertionError, LookupError, ...
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        if wanted:
            raise CheckpointError(
                f"{path}: refused, it asks to run {wanted[1]}; only tensors and plain values are loaded") from None
        raise damaged from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, expected a dictionary of tensors")
    return content


def _verify(path: Path, *, checksums: bool) -> bool:
    """Compares a zip file's members with their checksums, and their sizes with the file's before they are read; False
    for a file of the format before."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\3\4":  # what torch goes by: the format before has no checksums
            return False
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            size = sum(member.file_size for member in members)
            if size > path.stat().st_size or any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise DamagedCheckpointError(f"{path}: refused, its members would unpack to {size:,} bytes; torch "
                                             "writes them as they are, so that none is larger than its file")
            broken = archive.testzip() if checksums else None
            if not broken and any(member.filename.endswith(".pkl") and b"\nbytearray\n" in archive.read(member)
                                  for member in members):  # the one thing torch lets through that takes any size
                raise DamagedCheckpointError(f"{path}: refused, it asks for a bytearray, which no checkpoint holds")
    if broken is not None:
        raise DamagedCheckpointError(f"{path}: damaged, the bytes of {broken} do not fit their checksum; copy or fetch "
                                     "it again, or give another")
    return True


def read_checkpoint(path: str | Path, *, mapped: bool = False) -> Checkpoint[ModelConfig]:
    """Reads a model file: ours, a published one (training file or bare state dict), with or without "module.";
    mapped: as `read_file`."""
    return read_as(path, ModelConfig, format=FORMAT, own_names=to_own_names, infer=infer_config, mapped=mapped)


def read_as(path: str | Path, config_class: type[Config], *, format: str, own_names: Callable[[str], str],
            infer: Callable[[dict[str, Tensor], str], Config], mapped: bool = False) -> Checkpoint[Config]:
    """Reads a model file of one kind.

    format     our own files of this kind say so; those of another kind are refused
    own_names  turns a published key into ours
    infer      the configuration of a file that holds none, from (state dict in our names, what to call the file)
    """
    return _checked(read_file(path, mapped=mapped), path, config_class, format=format, own_names=own_names, infer=infer)


def checkpoint_of(content: dict, source: str) -> Checkpoint[ModelConfig]:
    """What other files than torch's hold of a model, as `read_checkpoint` has it of a file of ours, and checked alike.

    content  "format", "version", "config", "pretrained" and "model_state_dict" as `save_checkpoint` writes them, and
             "history" (see Checkpoint)
    source   what to call it
    """
    if content.get("format") not in FORMATS:  # nothing is guessed from names here
        raise CheckpointError(f"{source}: format {content.get('format')!r}, expected {FORMAT!r}: not a model of this "
                              "project")
    return _checked(content, source, ModelConfig, format=FORMAT, own_names=str, infer=infer_config)


def _checked(content: dict, path: str | Path, config_class: type[Config], *, format: str,
             own_names: Callable[[str], str], infer: Callable[[dict[str, Tensor], str], Config]) -> Checkpoint[Config]:
    weights = content.get("model_state_dict", content)
    if not _is_state_dict(weights):
        raise CheckpointError(f"{path}: holds no state dict; expected tensors by name, or 'model_state_dict'")
    state_dict = {own_names(key): value for key, value in weights.items()}
    if len(state_dict) < len(weights):
        raise CheckpointError(f"{path}: holds the same weight under two names (with and without 'module.'?)")
    found = content.get("format")
    if found != format:
        if isinstance(found, str) and found in FORMATS:
            raise CheckpointError(f"{path}: a {FORMATS[found]} model, expected a {FORMATS[format]} one")
        try:
            return Checkpoint(infer(state_dict, str(path)), state_dict, source=str(path))
        except IndexError:
            raise CheckpointError(f"{path}: its weights have fewer dimensions than a model's") from None
    version, pretrained, training = (content.get(name) for name in ("version", "pretrained", "training"))
    if not isinstance(version, int) or version != VERSION:
        told = version if isinstance(version, int) else type(version).__name__
        raise CheckpointError(f"{path}: format version {told}, this project reads {VERSION}")
    try:
        config = config_class.from_dict(content["config"])
    except (KeyError, TypeError, ValueError) as error:
        told = " ".join(str(error).split())  # a tensor in it has lines
        raise CheckpointError(f"{path}: its model configuration cannot be used: {told}") from None
    checkpoint = Checkpoint(config, state_dict, pretrained, training, str(path), content.get("history", ()))
    try:  # as every evaluation will write it
        json.dumps(checkpoint.trainings)
        sound = pretrained in (None, True, False) and all(isinstance(earlier, dict) for earlier in checkpoint.earlier)
    except (AttributeError, RuntimeError, TypeError, ValueError):
        sound = False
    if not sound:
        raise CheckpointError(f"{path}: what it says of its training cannot be used; give another file")
    return checkpoint


def _is_state_dict(content: object) -> bool:
    return isinstance(content, dict) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())


def infer_backbone(state_dict: dict[str, Tensor], source: str, *, model: str) -> str:
    """Which DINOv2 the names and shapes of a `model` ("SelaVPR++", ...) tell; CheckpointError where they tell none."""
    cls_token = state_dict.get("backbone.cls_token")
    if cls_token is None:
        hint = ": a backbone's file belongs to --foundation_model_path" if "cls_token" in state_dict else ""
        raise CheckpointError(f"{source}: not a {model} model (no backbone.cls_token){hint}")

    patches = state_dict.get("backbone.patch_embed.proj.weight")
    if patches is not None and patches.shape[-1] != DINOV2.patch:
        raise CheckpointError(f"{source}: no DINOv2 (its patches have {patches.shape[-1]} pixels), and only a model on "
                              "DINOv2 is known by names and shapes; save_checkpoint writes what others need")
    dim, depth = cls_token.shape[-1], _count(state_dict, "backbone.blocks.")
    registers = state_dict.get("backbone.register_tokens", torch.empty(0, dim)).shape[-2]
    known = {name: vit for name, vit in BACKBONES.items() if vit.family is DINOV2}
    names = [name for name, vit in known.items() if (vit.dim, vit.depth, vit.registers) == (dim, depth, registers)]
    if not names:
        more = f", with {registers} registers" if registers else ""
        raise CheckpointError(f"{source}: no known backbone is {dim} wide and {depth} blocks deep{more}; "
                              f"known are {', '.join(known)}")
    return names[0]


def _count(state_dict: dict[str, Tensor], prefix: str) -> int:
    """How many different words follow a prefix."""
    return len({key[len(prefix):].split(".")[0] for key in state_dict if key.startswith(prefix)})


def infer_config(state_dict: dict[str, Tensor], source: str) -> ModelConfig:
    """The configuration of a DINOv2 model that names and shapes (in our names) imply; CheckpointError where they imply
    none."""
    if any(key.startswith(("LocalAdapt.", "local_adapt.")) for key in state_dict):
        raise CheckpointError(f"{source}: a SelaVPR model (it has LocalAdapt), expected a SelaVPR++ one")
    backbone = infer_backbone(state_dict, source, model="SelaVPR++")
    branches = tuple(name for name in ("float", "binary") if _count(state_dict, f"{name}_branch."))
    if not branches:
        raise CheckpointError(f"{source}: holds neither a float nor a binary branch")
    # A head is told by one weight that no other has; what else is missing or too much, strict loading will name.
    marks = {"gem": "expand.weight", "boq": "mix.weight", "salad": "dustbin"}
    outputs: dict[str, Any] = {}
    for name, field, heads in (("float", "float_dim", marks), ("binary", "code_bits", ("gem",))):
        if name in branches:
            head = next((head for head in heads if f"{name}_branch.head.{marks[head]}" in state_dict), None)
            if head is None:
                more = ", nor one of BoQ or SALAD" if name == "float" else ""
                raise CheckpointError(f"{source}: the {name} branch has no GeM head{more}; others are not supported")
            if name == "float":
                outputs["aggregation"] = head
            if head == "gem":
                outputs[field] = state_dict[f"{name}_branch.head.{marks[head]}"].shape[0]
    adapters = _count(state_dict, f"{branches[0]}_branch.side.adapters.")
    placement = "all" if adapters == BACKBONES[backbone].depth else f"last:{adapters}"
    reduction = state_dict.get(f"{branches[0]}_branch.side.adapters.0.reduce3x3.conv.weight")
    if reduction is not None:
        outputs["reduction_dim"] = reduction.shape[0]
    try:
        return ModelConfig(backbone=backbone, branches=branches, placement=placement, **outputs)
    except ValueError as error:
        raise CheckpointError(f"{source}: {error}") from None


def load_weights(module: torch.nn.Module, state_dict: dict[str, Tensor], source: str) -> None:
    """Strict loading with one line of error: shapes that differ, keys that are missing or unexpected, and what holds
    no plain numbers (sparse, quantised, ...) or integers in place of floats."""
    _check_fit(module, state_dict, source)
    module.load_state_dict(state_dict)


def _check_fit(module: torch.nn.Module, state_dict: dict[str, Tensor], source: str) -> None:
    own = module.state_dict()
    differ = [f"{key} is {tuple(state_dict[key].shape)}, expected {tuple(own[key].shape)}"
              for key in own if key in state_dict and state_dict[key].shape != own[key].shape]
    missing = [key for key in own if key not in state_dict]
    unexpected = [key for key in state_dict if key not in own]
    odd = [f"{key} is {_kind(state_dict[key])}, expected {str(own[key].dtype).removeprefix('torch.')}" for key in own
           if key in state_dict and not _holds_numbers(state_dict[key], floats=own[key].is_floating_point())]
    for what, keys in (("another size of model:", differ), ("missing", missing), ("unexpected", unexpected),
                       ("another kind of values:", odd)):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise CheckpointError(f"{source} does not fit: {what} {keys[0]}{more}")


def _holds_numbers(value: Tensor, *, floats: bool) -> bool:
    return (value.layout is torch.strided and value.device.type == "cpu" and not value.is_quantized
            and value.dtype is not torch.bool and not value.is_complex()
            and (value.is_floating_point() or not floats))


def _kind(value: Tensor) -> str:
    words = [value.device.type] * (value.device.type == "meta") + [str(value.layout)] * (value.layout != torch.strided)
    return " ".join([*words, str(value.dtype)]).replace("torch.", "")


def load_model(checkpoint: Checkpoint | str | Path, *, interface: type[SelaVPRpp] = SelaVPRpp, shared: bool = False
               ) -> SelaVPRpp:
    """The model of a file (or of a read Checkpoint), on the CPU, in eval mode; its call is that of `interface`.

    shared  its weights take the memory of the Checkpoint's, as far as they have the same type, not memory of their own
    """
    return load_as(checkpoint if isinstance(checkpoint, Checkpoint) else read_checkpoint(checkpoint), interface,
                   shared=shared)


class _Undrawn(TorchFunctionMode):
    """Nothing is drawn: on "meta" tensors torch would import a compiler for it, which takes longer than all else."""

    def __torch_function__(self, func, types, given=(), by_name=None):
        by_name = by_name or {}
        if func in (Tensor.normal_, Tensor.uniform_) or getattr(func, "__module__", "") == torch.nn.init.__name__:
            return by_name["tensor"] if "tensor" in by_name else given[0]
        return func(*given, **by_name)


def load_as(checkpoint: Checkpoint, interface: type[Model], *, shared: bool = False) -> Model:
    """As `load_model`, of a kind of model."""
    with torch.device("meta"), _Undrawn():
        model = interface(checkpoint.config)  # every weight comes from the file: none is drawn first
    _check_fit(model, checkpoint.state_dict, checkpoint.source)  # before a configuration's sizes take memory
    # In place of to_empty, which imports that compiler too.
    model.load_state_dict({key: checkpoint.state_dict[key].to(own.dtype, copy=not shared).contiguous()
                           for key, own in model.state_dict().items()}, assign=True)
    return model.eval()


def cut_floats(checkpoint: Checkpoint, float_dim: int) -> Checkpoint:
    """The same model with the first `float_dim` dimensions of its float descriptor, of unit length again.

    Exact: they are the last linear layer's first outputs, which are normalised behind it. What it gives is a model like
    any other, with a fingerprint of its own: load_model takes it, and save_checkpoint writes what that gives (with its
    `history`).
    Raises CheckpointError for a model without float descriptors, a head that knows one length, and other lengths than
    1 to the descriptor's.
    """
    config, head = checkpoint.config, "float_branch.head.expand."
    if "float" not in config.branches or f"{head}weight" not in checkpoint.state_dict:
        kind = f"of {config.aggregation}" if "float" in config.branches else "that it does not have"
        raise CheckpointError(f"{checkpoint.source}: a float descriptor {kind} cannot be cut")
    if not 1 <= float_dim <= config.float_dim:
        raise CheckpointError(f"float_dim {float_dim}: expected 1 to the {config.float_dim} dimensions of "
                              f"{checkpoint.source}")
    shorter = tuple(length for length in config.nested_floats if length <= float_dim)
    nested = shorter if len(shorter) > 1 and shorter[-1] == float_dim else ()
    config = dataclasses.replace(config, float_dim=float_dim, nested_floats=nested)
    weights = {key: value[:float_dim] if key.startswith(head) else value
               for key, value in checkpoint.state_dict.items()}
    return dataclasses.replace(checkpoint, config=config, state_dict=weights, training=None,
                               history=checkpoint.trainings)


def load_foundation(model: SelaVPRpp | SelaVPR, path: str | Path) -> list[str]:
    """Loads an official file of the backbone (`Family.files`), strictly, by its own key names.

    Adapters inside the blocks, which such a file does not know, keep their values. Returns the names of what the file
    holds beside the backbone (DeiT's classifier), which is not used.
    """
    family, content = model.config.vit.family, read_file(path)
    content = content["model"] if isinstance(content.get("model"), dict) else content  # DeiT's files
    if "cls_token" not in content or not _is_state_dict(content):
        raise CheckpointError(f"{path}: not a {family.name} file (no cls_token); expected {family.files}")
    unused = [key for key in content if key.startswith(family.unused)]
    content = {key: value for key, value in content.items() if key not in unused}
    inner = {key: value for key, value in model.backbone.state_dict().items() if ".adapter" in key}
    weights = {**inner, **content}
    _check_fit(model.backbone, weights, f"{path} (into {model.config.backbone})")
    broken = next((key for key, value in weights.items() if not value.isfinite().all()), None)
    if broken is not None:  # a mask of keys' biases that was never filled in, say
        raise CheckpointError(f"{path}: {broken} holds NaN or infinite values; fetch the official file again")
    model.backbone.load_state_dict(weights)
    return unused


def save_checkpoint(model: SelaVPRpp, path: str | Path, *, pretrained: bool | None,
                    training: dict | None = None, history: Sequence[dict] = ()) -> None:
    """Writes a file of ours, which carries its configuration, to the disk, whole or not at all; read_checkpoint is its
    reader. training, history: as in Checkpoint."""
    save_as(model, path, format=FORMAT, pretrained=pretrained, training=training, history=history)


def save_as(model: SelaVPRpp | SelaVPR, path: str | Path, *, format: str, pretrained: bool | None,
            training: dict | None, history: Sequence[dict] = ()) -> None:
    """Writes a file of a kind of ours, see `read_as`."""
    content = {"format": format, "version": VERSION, "config": model.config.to_dict(), "pretrained": pretrained,
               "licence": model.config.licence(pretrained=pretrained), "model_state_dict": model.state_dict(),
               "training": training, "history": [*history]}
    with temporary_path(Path(path), synced=True) as temporary:
        torch.save(content, temporary)


def published_state_dict(model: SelaVPRpp) -> dict[str, Tensor]:
    """The weights under the published code's names (no "module." prefix), for its own load_state_dict.

    Raises CheckpointError for a model that names and shapes do not tell, as whoever loads it would get another one.
    """
    if model.config.vit.family is not DINOV2:
        raise CheckpointError(f"{model.config.backbone}: the published format knows DINOv2 alone; "
                              "save_checkpoint keeps the others")
    if not _told_by_names(model):
        raise CheckpointError(f"{model.config.backbone} with placement {model.config.placement!r} cannot be told from "
                              "the published names, which would make it another model; save_checkpoint keeps it")
    return {to_published_names(key): value for key, value in model.state_dict().items()}


def _told_by_names(model: SelaVPRpp) -> bool:
    """Whether `infer_config` finds the same backbone, and adapters at the same levels."""
    try:
        told = infer_config(model.state_dict(), "")
    except CheckpointError:
        return False
    return _levels(told) == _levels(model.config)


def _levels(config: ModelConfig) -> tuple[str, int, list[int]]:
    return config.backbone, config.first_level, [*config.taps]


def tensor_bytes(tensors: Mapping[str, Tensor]) -> Iterator[bytes | ctypes.Array]:
    """What tells tensors apart: (name, shape, dtype, bytes) of each, in the order of their names."""
    for key, value in sorted(tensors.items()):
        value = value.detach().cpu().contiguous()
        yield f"{key}:{tuple(value.shape)}:{str(value.dtype).removeprefix('torch.')}".encode()
        size = value.numel() * value.element_size()
        if size:
            yield (ctypes.c_char * size).from_address(value.data_ptr())


def fingerprint(model: SelaVPRpp) -> str:
    """sha256 over (name, shape, dtype, bytes) of the state dict in published names, sorted, as hexadecimal digits; and
    over the levels of the adapters where names and shapes do not tell them.

    Two models extract the same descriptors if it is equal, whatever file they came from.
    """
    digest = hashlib.sha256()
    for part in tensor_bytes({to_published_names(key): value for key, value in model.state_dict().items()}):
        digest.update(part)
    if not _told_by_names(model):
        digest.update(repr(_levels(model.config)).encode())
    return digest.hexdigest()
