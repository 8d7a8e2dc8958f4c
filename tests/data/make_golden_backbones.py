"""Records timm's tokens for weights filled by name: `PYTHONPATH=.:tests python tests/data/make_golden_backbones.py`.

Not part of the tests' run, which compares with golden_backbones.npz. timm 1.0.31 made it; it needs timm >= 1.0.20,
whose `vit_*_patch16_dinov3_qkvb` and `deit_*_patch16_224` are the oracle. Official names go through timm's own
`checkpoint_filter_fn`. It has no room for a file's periods, which are put in; and DeiT's table, which it would resize
antialiased, is resized by hand.
"""

import numpy as np
import timm
import torch
from backbones import EXACT, FULL, FULL_SIZE, ROUNDED, SMALL, official
from fill import batch
from oracle import bicubic_matrix
from paths import DATA
from timm.models import eva, vision_transformer

from model.config import DEIT, ViT

ARCHITECTURES = {"dinov3": "vit_small_patch16_dinov3_qkvb", "dinov3-plus": "vit_small_plus_patch16_dinov3_qkvb",
                 "deit": "deit_tiny_patch16_224"}


def twin(vit: ViT, size: tuple[int, int]) -> torch.nn.Module:
    """timm's model with the official weights, in double precision."""
    state = {name: value.double() for name, value in official(vit).items()}
    shape = {"embed_dim": vit.dim, "depth": vit.depth, "num_heads": vit.heads, "num_classes": 0}
    if vit.family is DEIT:
        model = timm.create_model(ARCHITECTURES["deit"], img_size=size, **shape)
        rows, columns = (torch.from_numpy(bicubic_matrix(side // 16, table=14, offset=0)) for side in size)
        table = torch.einsum("ra,cb,abd->rcd", rows, columns, state["pos_embed"][0, 1:].view(14, 14, -1))
        state["pos_embed"] = torch.cat([state["pos_embed"][:, :1], table.flatten(0, 1)[None]], dim=1)
        state = {name: value for name, value in state.items() if not name.startswith("head.")}
        model.load_state_dict(vision_transformer.checkpoint_filter_fn(state, model))
        return model.double().eval()
    model = timm.create_model(ARCHITECTURES["dinov3-plus" if vit.swiglu else "dinov3"], **shape)
    model.load_state_dict(eva.checkpoint_filter_fn(state, model))
    model = model.double().eval()
    model.rope.periods.copy_(state["rope_embed.periods"])
    return model


@torch.no_grad()
def tokens(vit: ViT, size: tuple[int, int]) -> np.ndarray:
    return twin(vit, size).forward_features(batch(range(2), *size).double()).numpy()


def main() -> None:
    found = {f"{kind} {size}": tokens(vit, size)[:, ::2, :12] for kind, vit in SMALL.items()
             for size in (*EXACT[kind], *ROUNDED[kind])}
    # The class token and two patches, the last one included: a few hundred numbers.
    found |= {name: tokens(vit, FULL_SIZE)[:, [0, 5, -1]][:, :, ::6] for name, vit in FULL.items()}
    np.savez_compressed(DATA / "golden_backbones.npz", **found)


if __name__ == "__main__":
    main()
