"""The model with the published code's outputs (one tensor, a pair or a triple), for torch.hub."""

from torch import Tensor

from .network import SelaVPRpp


class PublishedInterface(SelaVPRpp):
    """SelaVPRpp whose call gives what the published network gives; its modules and state dict are the same.

    Inside the project `SelaVPRpp` and its NamedTuple are used instead.
    """

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:  # type: ignore[override]  # that is its point
        """Images (B, 3, H, W) -> by the branches of this model, all fp32 and in the published order:

        float   float descriptor (B, D), unit length
        binary  relaxed code (B, bits), unit length, and its sign (B, bits) of -1/+1
        both    relaxed code, its sign, float descriptor
        """
        outputs = tuple(part for part in super().forward(images) if part is not None)
        return outputs if len(outputs) > 1 else outputs[0]
