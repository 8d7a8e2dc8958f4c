"""SelaVPR (Lu et al., ICLR 2024): adapters inside a frozen backbone, a global descriptor and dense local features."""

import collections
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..backbone import VisionTransformer
from ..layers.gem import GeMPool
from .config import SelaVPRConfig

LOCAL_DIM = 128


class SelaVPRDescriptors(NamedTuple):
    """Descriptors of a batch of images, fp32; `local` is None where it was not asked for.

    floating  (B, C)                      global descriptor, unit length
    local     (B, rows', columns', 128)   local features, each of unit length; r rows of patches become 4 r - 3
    """

    floating: Tensor
    local: Tensor | None = None


class LocalAdapt(nn.Module):
    """Two transposed convolutions, which make the map of patches four times as dense: C -> 256 -> 128 channels."""

    def __init__(self, dim: int):
        super().__init__()
        self.upconv1 = nn.ConvTranspose2d(dim, 2 * LOCAL_DIM, kernel_size=3, stride=2, padding=1)
        self.upconv2 = nn.ConvTranspose2d(2 * LOCAL_DIM, LOCAL_DIM, kernel_size=3, stride=2, padding=1)

    def forward(self, patches: Tensor) -> Tensor:
        """(B, rows, columns, C) -> (B, 4 rows - 3, 4 columns - 3, 128), fp32, each location of unit length."""
        dense = self.upconv2(F.relu(self.upconv1(patches.permute(0, 3, 1, 2))))
        return F.normalize(dense.permute(0, 2, 3, 1).float(), dim=-1)


class SelaVPR(nn.Module):
    """A frozen backbone with adapters inside every block, and two heads on its patches.

    The adapters, GeM's p and the transposed convolutions learn; the rest has no gradient and stays in eval mode under
    `.train()`. A backbone with registers resizes its table of positions as one without does: so did the published
    model with registers, whose adapters have learned by it.
    """

    def __init__(self, config: SelaVPRConfig):
        super().__init__()
        self.config = config
        self.backbone = VisionTransformer(config.vit, inner_adapters=True, plain_resize=True)
        self.backbone.set_trained("selavpr", range(config.vit.depth))
        self.pool = GeMPool()
        self.local_adapt = LocalAdapt(config.vit.dim)
        self.train(self.training)

    def train(self, mode: bool = True) -> "SelaVPR":
        super().train(mode)
        self.backbone.eval()  # its adapters too, which are the same in both modes
        return self

    def forward(self, images: Tensor, *, local: bool = True) -> SelaVPRDescriptors:
        """Extracts descriptors of images (B, 3, H, W), ImageNet-normalised, H and W multiples of the patch.

        `local=False` leaves the local features out, 1.9 MB an image of 224 x 224. ValueError for other sizes.
        """
        rows, columns = self.backbone.grid(images)
        tokens, = collections.deque(self.backbone.stream_tokens(images), maxlen=1)  # no other level stays in memory
        patches = self.backbone.norm(tokens)[:, -rows * columns:]
        floating = F.normalize(self.pool(patches).float(), dim=-1)
        dense = self.local_adapt(patches.unflatten(1, (rows, columns))) if local else None
        return SelaVPRDescriptors(floating, dense)

    def initialise_adapters(self) -> None:
        """The start of training from a foundation model: every adapter gives 0, the backbone sees what it saw."""
        self.backbone.initialise_adapters()


def build_selavpr(config: SelaVPRConfig, *, seed: int | None = None) -> SelaVPR:
    """A model with random weights, in training mode; the same seed gives the same weights whatever ran before."""
    if seed is None:
        return SelaVPR(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SelaVPR(config)
