"""SelaVPR with the published code's outputs, for torch.hub."""

from torch import Tensor

from .network import SelaVPR


class PublishedSelaVPR(SelaVPR):
    """SelaVPR whose call gives what the published network gives; its modules and state dict are the same."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]  # that is its point
        """Images (B, 3, H, W) -> local features (B, rows', columns', 128) and global descriptors (B, C), fp32, of unit
        length."""
        floating, local = super().forward(images)
        assert local is not None
        return local, floating
