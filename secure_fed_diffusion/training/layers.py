"""Per-example weight gradients of the layers that the U-Net is made of, in one batched backward pass.

Each layer here is an `autograd.Function`: its forward pass is PyTorch's own, its backward pass hands on the
gradient of the input as PyTorch would and, instead of adding up the weight's gradient over the batch, keeps
what each record's own is made of (`rows.Kept`).  A convolution's is a matrix product a record: the gradient
of its output times its input unfolded into patches.

`CALLS` says which functions of PyTorch they stand for; whatever a parameter goes through besides is
`Unknown`, and so is a layer in a form that is not handled (groups, another batch axis).  Not covered:
layers that mix records (batch normalisation without weights): `exactness.is_position_independent` sees
those.

Source: Goodfellow 2015, "Efficient Per-Example Gradient Computations" (arXiv 1510.01799); for convolutions
Rochette et al. 2019 (arXiv 1912.06015).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from secure_fed_diffusion.training.rows import Kept, Unknown

_aten = torch.ops.aten
_CACHED = 1 << 18  # numbers that stay in a core's cache between two operations
_AT_ONCE_ON_A_GPU = 1 << 28  # numbers in patches: few launches, and a gibibyte


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, anchor: Tensor, kept: Kept, x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.kept, ctx.weight, ctx.bias = kept, weight, bias
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (x,), kept = ctx.saved_tensors, ctx.kept
        onward = g @ ctx.weight if ctx.needs_input_grad[2] else None
        gradient = g.reshape(kept.n, -1, g.shape[-1])
        if kept.watches(ctx.weight):
            kept.product(ctx.weight, gradient.transpose(1, 2), x.detach().reshape(kept.n, -1, x.shape[-1]))
        if kept.watches(ctx.bias):
            kept.values(ctx.bias, gradient.sum(1))
        return None, None, onward, None, None


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, anchor: Tensor, kept: Kept, x: Tensor, weight: Tensor, bias: Tensor | None, *form: Any
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.kept, ctx.weight, ctx.bias, ctx.form = kept, weight, bias, form
        return F.conv2d(x, weight, bias, *form)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (x,), kept, form = ctx.saved_tensors, ctx.kept, ctx.form
        stride, padding, dilation = form
        onward = None
        if ctx.needs_input_grad[2]:
            onward = _aten.convolution_backward(
                g, x, ctx.weight, None, stride, padding, dilation, False, (0, 0), 1, (True, False, False)
            )[0]
        gradient = _by_channel(g, kept)
        if kept.watches(ctx.weight):
            seen, kernel, size, k = x.detach(), ctx.weight.shape[2:], g.shape[2:], kept.k
            kept.products(
                ctx.weight,
                lambda some: _with_patches(gradient[some], seen[_draws(some, k)], kernel, size, form),
            )
        if kept.watches(ctx.bias):
            kept.values(ctx.bias, gradient.sum(2))
        return None, None, onward, None, None, None, None, None


def _by_channel(g: Tensor, kept: Kept) -> Tensor:
    """Bring (n * k, c, h, w) to (n, c, k * h * w), without a copy where its memory allows."""
    if g.is_contiguous(memory_format=torch.channels_last):
        return g.permute(0, 2, 3, 1).reshape(kept.n, -1, g.shape[1]).transpose(1, 2)
    return g.reshape(kept.n, kept.k, g.shape[1], -1).transpose(1, 2).reshape(kept.n, g.shape[1], -1)


def _draws(records: slice, k: int) -> slice:
    """Return where the `k` draws of each of the records stand."""
    return slice(records.start * k, records.stop * k)


def _with_patches(
    gradient: Tensor, x: Tensor, kernel: torch.Size, size: torch.Size, form: Any
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield some records' gradients beside their patches, as many as stay in the processor's cache.

    Patches are what each output position saw, (records, k * positions, kernel height * width * channels).
    """
    width, k = kernel.numel() * x.shape[1], len(x) // len(gradient)
    room = _CACHED if x.device.type == "cpu" else _AT_ONCE_ON_A_GPU
    at_once = max(1, room // (k * width * size.numel()))
    for part, seen in zip(gradient.split(at_once), x.split(at_once * k), strict=True):
        yield part, _windows(seen, kernel, size, *form).reshape(len(part), -1, width)


def _windows(
    x: Tensor,
    kernel: torch.Size,
    size: torch.Size,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    """View the padded `x` (b, c, h, w) as (b, *output size, *kernel, c), places in memory in common."""
    (b, c, height, width), (down, right) = x.shape, padding
    pixels = x.permute(0, 2, 3, 1)
    if (down, right) != (0, 0):
        padded = x.new_zeros((b, height + 2 * down, width + 2 * right, c))
        padded[:, down : down + height, right : right + width] = pixels
        pixels = padded
    step = pixels.stride()
    steps = (step[1] * stride[0], step[2] * stride[1], step[1] * dilation[0], step[2] * dilation[1])
    return pixels.as_strided((b, *size, *kernel, c), (step[0], *steps, step[3]), pixels.storage_offset())


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        anchor: Tensor,
        kept: Kept,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        groups: int,
        eps: float,
    ) -> Tensor:
        x = x.contiguous()
        b, c = x.shape[:2]
        y, mean, rstd = torch.native_group_norm(x, weight, bias, b, c, x[0, 0].numel(), groups, eps)
        ctx.save_for_backward(x, mean, rstd)
        ctx.kept, ctx.weight, ctx.bias, ctx.groups = kept, weight, bias, groups
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (x, mean, rstd), kept = ctx.saved_tensors, ctx.kept
        b, c = x.shape[:2]
        # To the kernel the batch is one record of b * c channels, so what it adds up over records is none.
        weight = None if ctx.weight is None else ctx.weight.repeat(b)
        onward, scales, shifts = _aten.native_group_norm_backward(
            g.contiguous().view(1, b * c, -1),
            x.view(1, b * c, -1),
            mean.view(1, -1),
            rstd.view(1, -1),
            weight,
            1,
            b * c,
            x[0, 0].numel(),
            b * ctx.groups,
            (True, True, True),
        )
        for parameter, values in ((ctx.weight, scales), (ctx.bias, shifts)):
            if kept.watches(parameter):
                kept.values(parameter, values.view(kept.n, kept.k, c).sum(1))
        return None, None, onward.view(x.shape), None, None, None, None


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, kept: Kept, index: Tensor, weight: Tensor) -> Tensor:
        ctx.kept, ctx.index, ctx.weight = kept, index, weight
        return F.embedding(index, weight)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[None, ...]:
        kept, entries = ctx.kept, ctx.weight.shape[0]
        index = ctx.index.reshape(kept.n, 1, -1)
        chosen = torch.arange(entries, device=index.device).view(1, -1, 1) == index
        kept.product(ctx.weight, chosen.to(g.dtype), g.reshape(kept.n, -1, g.shape[-1]))
        return None, None, None, None


def _linear(
    anchor: Tensor,
    kept: Kept,
    input: Tensor,  # noqa: A002 (PyTorch's name)
    weight: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    _require_batch_first(input, kept, axes=2)
    kept.require_watched(weight, bias)
    return _Linear.apply(anchor, kept, input, weight, bias)


def _convolution(
    anchor: Tensor,
    kept: Kept,
    input: Tensor,  # noqa: A002 (PyTorch's name)
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: str | int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> Tensor:
    _require_batch_first(input, kept, axes=4)
    kept.require_watched(weight, bias)
    if groups != 1 or isinstance(padding, str):
        raise Unknown("a convolution in groups, or padded by name")
    return _Convolution.apply(
        anchor, kept, input, weight, bias, _pair(stride), _pair(padding), _pair(dilation)
    )


def _group_norm(
    anchor: Tensor,
    kept: Kept,
    input: Tensor,  # noqa: A002 (PyTorch's name)
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    _require_batch_first(input, kept, axes=3)
    kept.require_watched(weight, bias)
    return _GroupNorm.apply(anchor, kept, input, weight, bias, num_groups, eps)


def _embedding(
    anchor: Tensor,
    kept: Kept,
    input: Tensor,  # noqa: A002 (PyTorch's name)
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    _require_batch_first(input, kept, axes=1)
    kept.require_watched(weight)
    if padding_idx is not None or max_norm is not None or scale_grad_by_freq or sparse:
        raise Unknown("an embedding with padding, a largest norm, scaled or sparse gradients")
    return _Embedding.apply(anchor, kept, input, weight)


def _require_batch_first(x: Tensor, kept: Kept, *, axes: int) -> None:
    if x.dim() < axes or x.shape[0] != kept.n * kept.k:
        raise Unknown(f"an input of shape {tuple(x.shape)} in a batch of {kept.n * kept.k}")


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


CALLS: Mapping[Callable[..., Any], Callable[..., Tensor]] = {
    F.linear: _linear,
    F.conv2d: _convolution,
    F.group_norm: _group_norm,
    F.embedding: _embedding,
}
"""PyTorch's function -> the one that stands for it: (anchor, kept, *the same arguments)."""
