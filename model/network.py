"""SelaVPR++: a backbone, side networks and heads (Fig. 4 of the paper)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .aggregators import AGGREGATORS
from .backbone import IMAGES_AT_ONCE, VisionTransformer
from .config import BRANCHES, ModelConfig
from .layers.gem import GeMHead
from .layers.recompute import draws, recomputed
from .published_names import to_own_names
from .side_network import SideNetwork


class Descriptors(NamedTuple):
    """Descriptors of a batch of images; a field is None where its branch was not asked for. All fp32.

    relaxed   (B, bits)  the binary branch before its sign, unit length
    binary    (B, bits)  its sign, -1 or +1
    floating  (B, D)     float descriptor, unit length
    """

    relaxed: Tensor | None = None
    binary: Tensor | None = None
    floating: Tensor | None = None


class _StraightThroughSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, relaxed: Tensor) -> Tensor:
        return torch.where(relaxed >= 0, 1.0, -1.0).to(relaxed.dtype)  # -0.0 >= 0: sign(0) = +1

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient


def straight_through_sign(relaxed: Tensor) -> Tensor:
    """-1 where negative, else +1 (equation 8); backward passes the gradient as it is (equations 13, 14)."""
    return _StraightThroughSign.apply(relaxed)


class Branch(nn.Module):
    """A side network, without adapters for some methods, and the head on its last state."""

    def __init__(self, config: ModelConfig, head: nn.Module):
        super().__init__()
        self.side = SideNetwork(
            dim=config.vit.dim, first_level=config.first_level, taps=config.taps, adapter=config.adapter,
            reduction_dim=config.reduction_dim, start=config.adapter_start)
        self.head = head


class SelaVPRpp(nn.Module):
    """A backbone with a float branch, a binary branch, or both; the modules, and what learns, follow `config`.

    The backbone is frozen unless `config.tuning` names parts of it. Frozen parts stay in eval mode under `.train()`, so
    that BatchNorm statistics of a frozen branch cannot drift.
    State dicts in the published code's names load as they are: a hook translates them.

    recompute  as in the configuration; may be set at any time
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.recompute = config.recompute
        vit = config.vit
        self.backbone = VisionTransformer(vit, inner_adapters=config.tuning == "selavpr")
        if "float" in config.branches:
            head = AGGREGATORS[config.aggregation](vit.dim, config.float_dim)
            self.float_branch = Branch(config, head)
        if "binary" in config.branches:
            self.binary_branch = Branch(config, GeMHead(vit.dim, config.code_bits))
        self._frozen: set[str] = set()
        self.freeze("backbone")
        self.backbone.set_trained(config.tuning, config.tuned_blocks)
        self.register_load_state_dict_pre_hook(_accept_published_names)

    def branch(self, name: str) -> Branch:
        """The branch "float" or "binary"; ValueError where this model has none of that name."""
        if name not in self.config.branches:
            raise ValueError(f"this model has no branch {name!r}; it has {', '.join(self.config.branches)}")
        return getattr(self, f"{name}_branch")

    def freeze(self, *children: str) -> None:
        """Takes whole children ("backbone", "float_branch", "binary_branch") out of training, for good."""
        for name in children:
            self.get_submodule(name).requires_grad_(False)
            self._frozen.add(name)
        self.train(self.training)

    def train(self, mode: bool = True) -> "SelaVPRpp":
        super().train(mode)
        for name in self._frozen:
            self.get_submodule(name).eval()
        return self

    def forward(self, images: Tensor, branches: Sequence[str] | None = None) -> Descriptors:
        """Extracts descriptors of images (B, 3, H, W), ImageNet-normalised, H and W multiples of the patch.

        `branches` names those to compute, by default all that exist; they share one pass of the backbone.
        """
        names = self.config.branches if branches is None else branches
        grid = self.backbone.grid(images)
        active = {name: self.branch(name) for name in BRANCHES if name in names}
        if not active or len(active) != len(names):
            raise ValueError(f"branches {tuple(names)!r} must be one or both of {BRANCHES}, each once")
        states: dict[str, Tensor | None] = dict.fromkeys(active)
        for level, tokens in enumerate(self.backbone.stream_tokens(images)):
            for name, branch in active.items():
                states[name] = branch.side.step(states[name], tokens, level, grid, recompute=self.recompute)
        outputs = {name: self._descriptors(active[name].head, state, grid)
                   for name, state in states.items() if state is not None}  # which after the last level none is
        relaxed = outputs.get("binary")
        binary = None if relaxed is None else straight_through_sign(relaxed)
        return Descriptors(relaxed=relaxed, binary=binary, floating=outputs.get("float"))

    def _descriptors(self, head: nn.Module, state: Tensor, grid: tuple[int, int]) -> Tensor:
        # The backbone's last LayerNorm, frozen too, is applied to each side network's state, not to x_depth.
        def extract(tokens: Tensor) -> Tensor:
            return head(self.backbone.norm(tokens), grid)

        if not (self.recompute and head.training and torch.is_grad_enabled()):
            return extract(state)
        # Some images at a time, as the fp32 of the pooling is large; but dropout draws for the whole batch at once.
        parts = [state] if draws(head) else state.split(IMAGES_AT_ONCE)
        return torch.cat([recomputed(extract, part, module=head) for part in parts])

    def initialise_adapters(self) -> None:
        """The start of training from a foundation model (train.py, train_hashing.py): every adapter gives 0."""
        self.backbone.initialise_adapters()
        for name in self.config.branches:
            self.branch(name).side.initialise()

    @torch.no_grad()
    def start_from(self, trained: "SelaVPRpp") -> None:
        """The start of train_rerank.py: backbone and branch of a trained model with one branch; the other side network
        copies that branch's, BatchNorm statistics included; the other head stays as initialised."""
        done, = trained.config.branches
        self.backbone.load_state_dict(trained.backbone.state_dict())
        self.branch(done).load_state_dict(trained.branch(done).state_dict())
        for name in self.config.branches:
            self.branch(name).side.load_state_dict(trained.branch(done).side.state_dict())


def build_model(config: ModelConfig, *, seed: int | None = None) -> SelaVPRpp:
    """A model with random weights, in training mode; the same seed gives the same weights whatever ran before."""
    if seed is None:
        return SelaVPRpp(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SelaVPRpp(config)


def _accept_published_names(module, state_dict, prefix, *_) -> None:
    for key in list(state_dict):
        if key.startswith(prefix):
            own = prefix + to_own_names(key[len(prefix):])
            if own != key:
                state_dict[own] = state_dict.pop(key)
