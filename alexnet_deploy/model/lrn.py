"""The paper's local response normalisation: one ONNX node when exported, fast to train on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

# Legend: N batch, C channel, H height, W width

SIZE, ALPHA, BETA, BIAS = 5, 1e-4, 0.75, 2.0
"""The paper's n, alpha, beta and k (section 3.3)."""


class PaperLRN(nn.Module):
    """Local response normalisation as in the paper, section 3.3, across channels, shape unchanged.

        b_i = a_i / (k + alpha * sum of a_j^2 over the n channels around i)^beta,  k=2, n=5, alpha=1e-4, beta=0.75

    torch and ONNX divide alpha by n, so theirs is 5e-4. In an ONNX export this is one LRN node: torch itself would
    export a padded 3-D average pool, which is slow in every runtime.
    """

    def forward(self, x_NCHW: Tensor) -> Tensor:
        if torch.onnx.is_in_onnx_export():
            attributes: dict[str, Any] = {"size": SIZE, "alpha": SIZE * ALPHA, "beta": BETA, "bias": BIAS}
            return torch.onnx.ops.symbolic("LRN", [x_NCHW], attributes, dtype=x_NCHW.dtype, shape=x_NCHW.shape)
        if x_NCHW.dtype == torch.float16:  # its largest number is 65504, less than the square of 256
            with torch.autocast(x_NCHW.device.type, enabled=False):  # it would compute the squares in float16
                return self.forward(x_NCHW.float()).half()
        if torch.is_grad_enabled():
            normalised: Tensor = _TrainedLRN.apply(x_NCHW)  # type: ignore[no-untyped-call]
            return normalised
        return nn.functional.local_response_norm(x_NCHW, SIZE, SIZE * ALPHA, BETA, BIAS)


class _TrainedLRN(torch.autograd.Function):
    """The same formula for training: the sum over neighbouring channels is a 1 x 1 convolution with a band of ones.

    torch's own uses a 3-D average pool, in float32 under autocast: on a CPU it takes six times as long as this (batch
    128, 96 x 55 x 55 and 256 x 27 x 27, bfloat16, forward and backward) and three times the rest of ``alexnet-2012``.
    With d = k + alpha * s the gradient is

        dL/da_i = g_i d_i^-beta - 2 alpha beta a_i * sum over the neighbours j of i of g_j a_j d_j^(-beta-1)
    """

    @staticmethod
    def forward(ctx: Any, x_NCHW: Tensor) -> Tensor:
        d_NCHW = _neighbours(x_NCHW * x_NCHW).mul_(ALPHA).add_(BIAS)
        root = d_NCHW.rsqrt()
        scale_NCHW = root.mul_(root.sqrt())  # d^-0.75; pow takes three times as long
        ctx.save_for_backward(x_NCHW, d_NCHW, scale_NCHW)
        return x_NCHW * scale_NCHW

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Tensor:
        x_NCHW, d_NCHW, scale_NCHW = ctx.saved_tensors
        direct_NCHW = grad[0] * scale_NCHW
        summed_NCHW = _neighbours((direct_NCHW * x_NCHW).div_(d_NCHW)).mul_(-2 * ALPHA * BETA)
        return torch.addcmul(direct_NCHW, summed_NCHW, x_NCHW)


def _neighbours(x_NCHW: Tensor) -> Tensor:
    """For each channel, the sum over the channels at most two away."""
    channel = torch.arange(x_NCHW.shape[1], device=x_NCHW.device)
    band = (channel[:, None] - channel).abs() <= SIZE // 2
    return nn.functional.conv2d(x_NCHW, band.to(x_NCHW.dtype)[:, :, None, None])
