"""Checkpoints that were damaged or tampered with: refused in one line, or read to equal values; never a traceback."""

import io
import os
import pickletools
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from faulty_checkpoints import changed_bytes, changed_content, outcomes, reads_as, same

import model.checkpoint
from model import (
    BACKBONES,
    CheckpointError,
    DamagedCheckpointError,
    ModelConfig,
    SelaVPRConfig,
    build_model,
    build_selavpr,
    load_foundation,
    load_model,
    load_selavpr,
    published_state_dict,
    read_checkpoint,
    save_checkpoint,
    save_selavpr,
)
from model.config import ViT
from model.files import temporary_path

FILES = int(os.environ.get("SELAVPRPP_FAULTS", "50"))  # of each kind


@pytest.fixture(scope="module")
def small():
    """A backbone whose files are small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "small", ViT(32, 2, 2, "all", 48, None))
        yield


@pytest.fixture(scope="module")
def ours(small, tmp_path_factory):
    """A file of ours with a training state."""
    network = build_model(ModelConfig(backbone="small", branches=("float",)), seed=0)
    optimiser = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=1e-3)
    network(torch.randn(2, 3, 28, 28)).floating.sum().backward()
    optimiser.step()
    path = tmp_path_factory.mktemp("ours") / "model.pth"
    save_checkpoint(network, path, pretrained=False, training={
        "script": "train.py", "earlier": [{"script": "train.py", "epoch": 3}], "epoch": 1,
        "optimiser": optimiser.state_dict()})
    return path


def refused(path: Path, message: str, load=load_model) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        load(path)
    assert "\n" not in str(error.value)
    assert path.name in str(error.value)


def test_changed_bytes_are_refused_or_read_to_equal_values(ours, tmp_path):
    found = outcomes(changed_bytes(ours.read_bytes(), 4 * FILES, seed=1), tmp_path / "changed.pth", reads_as(ours))
    assert found.keys() <= {"refused", "equal"}
    assert found["refused"] > 3.2 * FILES


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's
def test_the_format_before_zip_never_ends_in_a_traceback(ours, tmp_path):
    """It has no checksums: what was changed in its values nobody can tell."""
    legacy = tmp_path / "legacy.pth"
    torch.save(torch.load(ours), legacy, _use_new_zipfile_serialization=False)
    assert reads_as(ours)(legacy)
    found = outcomes(changed_bytes(legacy.read_bytes(), FILES, seed=2), tmp_path / "changed.pth",
                     lambda path: load_model(path) is not None)
    assert found.keys() <= {"refused", "equal"}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_changed_content_is_refused_or_gives_equal_weights(ours, tmp_path):
    weights = load_model(ours).state_dict()
    found = outcomes(changed_content(torch.load(ours), FILES, seed=3), tmp_path / "changed.pth",
                     lambda path: same(load_model(path).state_dict(), weights))
    assert found.keys() <= {"refused", "equal"}
    assert min(found.values()) > 0.1 * FILES


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_changed_bare_state_dict_is_refused_or_gives_equal_weights(small, tmp_path):
    network = build_model(ModelConfig(backbone="dinov2-tiny", branches=("float",), float_dim=8), seed=0)
    published = {"model_state_dict": published_state_dict(network), "epoch_num": 3}
    torch.save(published, tmp_path / "whole.pth")
    weights = load_model(tmp_path / "whole.pth").state_dict()
    found = outcomes(changed_content(published, FILES // 5, seed=4), tmp_path / "changed.pth",
                     lambda path: same(load_model(path).state_dict(), weights))
    assert found.keys() <= {"refused", "equal"}


def test_damage_is_told_with_the_member_and_what_to_do(ours, tmp_path):
    content = bytearray(ours.read_bytes())
    content[len(content) // 2] ^= 1
    path = tmp_path / "flipped.pth"
    path.write_bytes(content)
    with pytest.raises(DamagedCheckpointError, match=r"flipped.pth: damaged, the bytes of \S+/data/\d+ do not fit "
                                                     "their checksum; copy or fetch it again"):
        load_model(path)
    torch.load(path)  # torch itself does not notice


@pytest.mark.parametrize("compressed", [True, False])
def test_members_larger_than_their_file_are_refused_before_anything_is_read(tmp_path, monkeypatch, compressed):
    path = tmp_path / "large.pth"
    stored = io.BytesIO()
    torch.save({"backbone.cls_token": torch.zeros(2**24)}, stored)
    if compressed:  # 64 MB in 65 KB
        with zipfile.ZipFile(stored) as archive, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as written:
            for name in archive.namelist():
                written.writestr(name, archive.read(name))
        assert path.stat().st_size < 2**17
    else:  # the table says 4 GB
        whole = bytearray(stored.getvalue())
        entry = whole.rindex(b"PK\1\2")
        whole[entry + 20:entry + 28] = struct.pack("<II", 2**32 - 16, 2**32 - 16)
        path.write_bytes(whole)

    def load(*_, **__):
        raise AssertionError("torch read it")

    monkeypatch.setattr(torch, "load", load)
    refused(path, "refused, its members would unpack to [0-9,]+ bytes")


def test_a_pickle_that_asks_for_memory_is_refused(ours, tmp_path):
    """torch would set a terabyte aside, or be killed."""
    asking = b"\x80\x02}X\x01\x00\x00\x00ac__builtin__\nbytearray\n\x8a\x06\x00\x00\x00\x00\x00\x01\x85Rs."
    assert "BYTEARRAY" not in (names := {op.name for op, *_ in pickletools.genops(asking)}) and "REDUCE" in names
    with zipfile.ZipFile(ours) as archive, zipfile.ZipFile(tmp_path / "asking.pth", "w") as written:
        for name in archive.namelist():
            written.writestr(name, asking if name.endswith("data.pkl") else archive.read(name))
    refused(tmp_path / "asking.pth", "asks for a bytearray")


@pytest.mark.parametrize("field", ["float_dim", "reduction_dim"])
def test_sizes_of_a_configuration_are_compared_with_the_weights_before_they_take_memory(ours, tmp_path, field):
    """Weights of that size would be 275 GB."""
    content = torch.load(ours)
    content["config"][field] = 2**31 - 1
    torch.save(content, tmp_path / "wide.pth")
    refused(tmp_path / "wide.pth", "does not fit: another size of model")
    content["config"][field] = 2**31
    torch.save(content, tmp_path / "wide.pth")
    refused(tmp_path / "wide.pth", f"{field} 2147483648 must be at most 2147483647")


ODD = {"sparse_coo": lambda weight: weight.to_sparse(), "sparse_csr": lambda weight: weight.to_sparse_csr(),
       "meta": lambda weight: weight.to("meta"), "int8": lambda weight: (100 * weight).to(torch.int8),
       "uint8": lambda weight: weight.to(torch.uint8), "bool": lambda weight: weight > 0,
       "complex64": lambda weight: weight.to(torch.complex64),
       "qint8": lambda weight: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", list(ODD))
def test_weights_that_are_no_plain_floats_are_refused(ours, tmp_path, kind):
    content = torch.load(ours)
    name = "float_branch.head.project.weight"
    content["model_state_dict"][name] = ODD[kind](content["model_state_dict"][name])
    torch.save(content, tmp_path / "odd.pth")
    refused(tmp_path / "odd.pth", f"another kind of values: {name} is {kind}.*, expected float32|not a readable")


def test_weights_of_other_precisions_load(ours, tmp_path):
    content = torch.load(ours)
    weights = content["model_state_dict"]
    content["model_state_dict"] = {name: value.half() for name, value in weights.items()}
    torch.save(content, tmp_path / "half.pth")
    loaded = load_model(tmp_path / "half.pth").state_dict()
    assert all(torch.equal(loaded[name], value.half().to(value.dtype)) for name, value in weights.items())


@pytest.mark.parametrize(("training", "pretrained"), [
    ([1], None), ({"earlier": 7}, None), ({"earlier": [1]}, None), ({"epoch": {(1, 2): 3}}, None), (None, "yes"),
    ({"data": torch.zeros(2)}, None)])
def test_what_pages_could_not_tell_of_a_training_is_refused(ours, tmp_path, training, pretrained):
    torch.save({**torch.load(ours), "training": training, "pretrained": pretrained}, tmp_path / "odd.pth")
    refused(tmp_path / "odd.pth", "what it says of its training cannot be used")


def test_selavpr_files_are_verified_too(small, tmp_path):
    path = tmp_path / "selavpr.pth"
    network = build_selavpr(SelaVPRConfig(backbone="small"), seed=0)
    save_selavpr(network, path, pretrained=False)
    assert same(load_selavpr(path).state_dict(), network.state_dict())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    refused(path, "do not fit their checksum", load_selavpr)


@pytest.mark.parametrize(("change", "message"), [
    ({3: torch.zeros(1)}, "not a DINOv2 file"), ({"norm.bias": [0.0] * 32}, "not a DINOv2 file"),
    ({"norm.bias": torch.full((32,), float("nan"))}, "norm.bias holds NaN or infinite values"),
    ({"norm.bias": torch.zeros(1).expand(10**12)}, "another size of model"),
    ({"norm.bias": torch.zeros(32, dtype=torch.int8)}, "another kind of values")])
def test_a_foundation_file_of_other_values_is_refused(small, tmp_path, change, message):
    network = build_model(ModelConfig(backbone="small", branches=("float",)), seed=0)
    torch.save({**network.backbone.state_dict(), **change}, tmp_path / "foundation.pth")
    refused(tmp_path / "foundation.pth", message, lambda path: load_foundation(network, path))


def test_the_disk_holds_a_checkpoint_before_it_takes_its_name_and_then_the_name(ours, tmp_path, monkeypatch):
    path, done = tmp_path / "model.pth", []
    synced, renamed = os.fsync, Path.replace

    def fsync(descriptor):
        done.append(("synced", os.fstat(descriptor).st_ino))
        synced(descriptor)

    def replace(source, target):
        done.append(("renamed", source.stat().st_ino))
        return renamed(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    save_checkpoint(load_model(ours), path, pretrained=False)
    file, folder = path.stat().st_ino, tmp_path.stat().st_ino
    assert done == [("synced", file), ("renamed", file), ("synced", folder)]
    done.clear()
    with temporary_path(tmp_path / "page.md") as temporary:
        temporary.write_text("quick")
    assert [what for what, _ in done] == ["renamed"]


def test_the_disks_trouble_is_not_called_damage(ours, monkeypatch):
    def fail(*_, **__):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(model.checkpoint.torch, "load", fail)
    with pytest.raises(OSError, match="Input/output error"):
        read_checkpoint(ours)
