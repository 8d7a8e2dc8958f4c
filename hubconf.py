"""torch.hub entry points of SelaVPR++ and SelaVPR; need torch alone."""

import hashlib
import importlib.util
import pathlib
import sys
import types

import torch

dependencies = ["torch"]


def SelaVPRplusplus(
    backbone: str = "dinov2-large",
    aggregation: str = "gem",
    hashing: bool = True,
    rerank: bool = True,
    pretrained: bool = True,
) -> torch.nn.Module:
    """A SelaVPR++ model on the CPU, in eval mode; its call takes images and gives, all float32:

        hashing=False                float descriptors (B, D), unit length; D 2048 (base) or 4096 (large), whatever
                                     rerank is
        hashing=True, rerank=False   relaxed codes (B, 512), unit length, and binary codes (B, 512) of -1/+1
        hashing=True, rerank=True    relaxed codes, binary codes, float descriptors; the default

    The images are a float tensor (B, 3, H, W): RGB from 0 to 1, normalised with the ImageNet mean (0.485, 0.456,
    0.406) and standard deviation (0.229, 0.224, 0.225), H and W multiples of the backbone's patch: 14 for DINOv2
    (322 x 322 in the paper), 16 for DINOv3 and DeiT (320 x 320); other sizes raise ValueError. Similar places have a
    small L2 distance between float descriptors, and a small Hamming distance between binary codes.

    backbone      "dinov2-large" (default) or "dinov2-base"; with pretrained=False also the other sizes, "dinov2-giant"
                  and "dinov2-large-reg" (with 4 registers) among them, and those of DINOv3 and DeiT ("dinov3-small",
                  ...), whose D differs
    aggregation   head of the float branch: "gem" (default); with pretrained=False also "boq" (D 12288) and "salad"
                  (D 8448)
    hashing, rerank   what the call gives, as above; nobody has published weights of hashing=True, rerank=False
    pretrained    True (default): the published weights, fetched once into torch.hub's cache; False: random weights,
                  drawn from torch's global generator (torch.manual_seed repeats them). Weights of your own training
                  are no argument here: load_model(FILE) of the package beside this file loads them

    Raises ValueError, before any download, for a combination that does not exist, with those that do.

    OWNER/REPO is where this code lies on GitHub; of a checkout its path, with source="local":

    >>> model = torch.hub.load("OWNER/REPO", "SelaVPRplusplus", backbone="dinov2-base")
    >>> with torch.inference_mode():
    ...     relaxed, binary, descriptors = model(torch.zeros(1, 3, 322, 322))
    """
    package = _load_package()
    if not hashing:
        branches = ("float",)
    else:
        branches = ("float", "binary") if rerank else ("binary",)
    config = package.ModelConfig(backbone=backbone, aggregation=aggregation, branches=branches)
    if not pretrained:
        return package.PublishedInterface(config).eval()
    return package.load_model(package.fetch_released(config), interface=package.PublishedInterface)


def SelaVPR(
    backbone: str = "dinov2-large",
    weights: str = "msls",
    pretrained: bool = True,
) -> torch.nn.Module:
    """A SelaVPR model (the predecessor of SelaVPR++) on the CPU, in eval mode; its call takes images and gives a pair,
    both float32:

        local features (B, 4 rows - 3, 4 columns - 3, 128), of unit length at each location, where rows and columns
        count the image's patches, and global descriptors (B, D), unit length; D 1024 (large)

    The images are a float tensor (B, 3, H, W): RGB from 0 to 1, normalised with the ImageNet mean (0.485, 0.456,
    0.406) and standard deviation (0.229, 0.224, 0.225), H and W multiples of the backbone's patch: 14 for DINOv2
    (224 x 224 in the paper). Similar places have a small L2 distance between global descriptors, and many pairs of
    local features that are each other's nearest by inner product.

    backbone      "dinov2-large" (default) or "dinov2-large-reg" (with 4 registers); with pretrained=False any backbone
    weights       what the published model was trained on: "msls" (default) or, without registers, "pitts30k"
    pretrained    True (default): the published weights, from torch.hub's cache, where you have put them before: they
                  lie on pages that only a browser can fetch from, and the error says which. False: random weights,
                  drawn from torch's global generator (torch.manual_seed repeats them)

    Raises ValueError, in one line, for a combination that does not exist and where the file is not in the cache.

    >>> model = torch.hub.load("OWNER/REPO", "SelaVPR", weights="pitts30k")
    >>> with torch.inference_mode():
    ...     local, descriptors = model(torch.zeros(1, 3, 224, 224))
    """
    package = _load_package()
    if not pretrained:
        return package.PublishedSelaVPR(package.SelaVPRConfig(backbone=backbone)).eval()
    return package.load_selavpr(package.find_released_selavpr(backbone, weights), interface=package.PublishedSelaVPR)


def _load_package() -> types.ModuleType:
    """Our package `model`, under a name of its own: another hub repository's `model` may be in sys.modules."""
    folder = pathlib.Path(__file__).resolve().parent / "model"
    name = "selavprpp_" + hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)])
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]
