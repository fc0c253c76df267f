"""Per-example weight gradients of the layers that the U-Net is made of, in one batched backward pass.

Each layer here is an `autograd.Function`: its forward pass is PyTorch's own, its backward pass hands on the
gradient of the input as PyTorch would and, instead of adding up the weight's gradient over the batch, writes
each record's own into `Rows`.  A convolution's is a matrix product a record: the gradient of its output
times its input unfolded into patches.  In memory a record's weights lie output by row by column by input
channel, because patches gathered along the channels are copied in long runs.

`CALLS` says which functions of PyTorch they stand for; whatever a parameter goes through besides is
`Unknown`, and so is a layer in a form that is not handled (groups, another batch axis).  Not covered:
layers that mix records (batch normalisation without weights): `per_example.is_position_independent` sees
those.

Source: Goodfellow 2015, "Efficient Per-Example Gradient Computations" (arXiv 1510.01799); for convolutions
Rochette et al. 2019 (arXiv 1912.06015).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_aten = torch.ops.aten
_CACHED = 1 << 18  # numbers that stay in a core's cache between two operations


class Unknown(Exception):
    """A parameter is used in a way whose per-example gradient these layers cannot give."""


class Rows(Mapping[str, Tensor]):
    """The per-example gradients of one micro-batch: {parameter: (n, *shape)}, views of memory used again.

    `k` rows of the network's batch in succession belong to one record.  Parameters that are used more than
    once add up.

    Guarantees: after `begin` or `close` what was computed before cannot be read here any more, so a
    micro-batch is never counted with the numbers of another.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], n: int, k: int) -> None:
        self.n, self.k = n, k
        self.parameters = dict(parameters)
        self._names = {id(p): name for name, p in parameters.items()}
        self._memory = {name: p.new_empty((n, p.numel())) for name, p in parameters.items()}
        self._written: set[str] = set()
        self._shown = False

    def fits(self, parameters: Mapping[str, nn.Parameter], n: int, k: int) -> bool:
        """Say whether this is the memory for `n` records with `k` draws of these parameters."""
        same = self._names == {id(p): name for name, p in parameters.items()}
        return (
            same
            and (self.n, self.k) == (n, k)
            and all(
                memory.dtype == p.dtype and memory.device == p.device
                for memory, p in zip(self._memory.values(), parameters.values(), strict=True)
            )
        )

    def begin(self) -> None:
        """Forget the last micro-batch."""
        self._written.clear()
        self._shown = False

    close = begin

    def show(self, n: int) -> Rows:
        """Let the rows be read; those behind the first `n` are overwritten with zeros.

        Raises:
            Unknown: a parameter took no part, so nothing stands in its memory.
        """
        missing = self.parameters.keys() - self._written
        if missing:
            raise Unknown(f"{min(missing)} has no gradient")
        for memory in self._memory.values():
            memory[n:] = 0.0
        self._shown = True
        return self

    def watches(self, parameter: object) -> bool:
        """Say whether this parameter's gradients are asked for."""
        return id(parameter) in self._names

    def require_watched(self, *tensors: Tensor | None) -> None:
        """Refuse a weight that has a gradient and is none of the parameters, but derived from one.

        Raises:
            Unknown: its gradient would be lost.
        """
        if any(t is not None and t.requires_grad and not self.watches(t) for t in tensors):
            raise Unknown("a weight or a bias is derived from a parameter")

    def add_product(self, parameter: Tensor, left: Tensor, right: Tensor) -> None:
        """Add `left` @ `right`, of shape (n, a, b) with a * b weights in memory order."""
        self.add_products(parameter, [(left, right)])

    def add_products(self, parameter: Tensor, factors: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Add left @ right for some records after others, until all n have had their turn."""
        memory, fresh = self._part(parameter)
        start = 0
        for left, right in factors:
            out = memory[start : start + len(left)].view(-1, left.shape[1], right.shape[2])
            start += len(left)
            if not fresh:
                out.baddbmm_(left, right)
            elif left.shape[2] == 1:
                torch.mul(left, right, out=out)
            else:
                torch.bmm(left, right, out=out)

    def add(self, parameter: Tensor, values: Tensor) -> None:
        """Add `values`, (n, weights in memory order)."""
        memory, fresh = self._part(parameter)
        if fresh:
            memory.copy_(values)
        else:
            memory.add_(values)

    def _part(self, parameter: Tensor) -> tuple[Tensor, bool]:
        name = self._names[id(parameter)]
        fresh = name not in self._written
        self._written.add(name)
        return self._memory[name], fresh

    def __getitem__(self, name: str) -> Tensor:
        """Return the gradients of one parameter: (n, *shape)."""
        if not self._shown:
            raise RuntimeError("this micro-batch is over: its memory belongs to the next one")
        shape, rows = self.parameters[name].shape, self._memory[name]
        if len(shape) == 4:
            out, into, height, width = shape
            return rows.view(-1, out, height, width, into).permute(0, 1, 4, 2, 3)
        return rows.view(-1, *shape)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the parameters, in the model's order."""
        return iter(self.parameters)

    def __len__(self) -> int:
        """Return the number of parameters."""
        return len(self.parameters)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, anchor: Tensor, rows: Rows, x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.rows, ctx.weight, ctx.bias = rows, weight, bias
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (x,), rows = ctx.saved_tensors, ctx.rows
        onward = g @ ctx.weight if ctx.needs_input_grad[2] else None
        gradient = g.reshape(rows.n, -1, g.shape[-1])
        if rows.watches(ctx.weight):
            rows.add_product(ctx.weight, gradient.transpose(1, 2), x.reshape(rows.n, -1, x.shape[-1]))
        if rows.watches(ctx.bias):
            rows.add(ctx.bias, gradient.sum(1))
        return None, None, onward, None, None


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, anchor: Tensor, rows: Rows, x: Tensor, weight: Tensor, bias: Tensor | None, *form: Any
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.rows, ctx.weight, ctx.bias, ctx.form = rows, weight, bias, form
        return F.conv2d(x, weight, bias, *form)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (x,), rows, (stride, padding, dilation) = ctx.saved_tensors, ctx.rows, ctx.form
        onward = None
        if ctx.needs_input_grad[2]:
            onward = _aten.convolution_backward(
                g, x, ctx.weight, None, stride, padding, dilation, False, (0, 0), 1, (True, False, False)
            )[0]
        gradient = _by_channel(g, rows)
        if rows.watches(ctx.weight):
            kernel, size = ctx.weight.shape[2:], g.shape[2:]
            rows.add_products(ctx.weight, _with_patches(gradient, x, rows, kernel, size, ctx.form))
        if rows.watches(ctx.bias):
            rows.add(ctx.bias, gradient.sum(2))
        return None, None, onward, None, None, None, None, None


def _by_channel(g: Tensor, rows: Rows) -> Tensor:
    """Bring (n * k, c, h, w) to (n, c, k * h * w), without a copy where its memory allows."""
    if g.is_contiguous(memory_format=torch.channels_last):
        return g.permute(0, 2, 3, 1).reshape(rows.n, -1, g.shape[1]).transpose(1, 2)
    return g.reshape(rows.n, rows.k, g.shape[1], -1).transpose(1, 2).reshape(rows.n, g.shape[1], -1)


def _with_patches(
    gradient: Tensor, x: Tensor, rows: Rows, kernel: torch.Size, size: torch.Size, form: Any
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield some records' gradients beside their patches, as many as stay in the processor's cache.

    Patches are what each output position saw, (records, k * positions, kernel height * width * channels).
    """
    windows = _windows(x, kernel, size, *form)
    width = kernel.numel() * x.shape[1]
    at_once = max(1, _CACHED // (rows.k * width * size.numel()))
    for part, seen in zip(gradient.split(at_once), windows.split(at_once * rows.k), strict=True):
        yield part, seen.reshape(len(part), -1, width)


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
        rows: Rows,
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
        ctx.rows, ctx.weight, ctx.bias, ctx.groups = rows, weight, bias, groups
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (x, mean, rstd), rows = ctx.saved_tensors, ctx.rows
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
            if rows.watches(parameter):
                rows.add(parameter, values.view(rows.n, rows.k, c).sum(1))
        return None, None, onward.view(x.shape), None, None, None, None


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, rows: Rows, index: Tensor, weight: Tensor) -> Tensor:
        ctx.rows, ctx.index, ctx.weight = rows, index, weight
        return F.embedding(index, weight)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[None, ...]:
        rows, entries = ctx.rows, ctx.weight.shape[0]
        index = ctx.index.reshape(rows.n, 1, -1)
        chosen = torch.arange(entries, device=index.device).view(1, -1, 1) == index
        rows.add_product(ctx.weight, chosen.to(g.dtype), g.reshape(rows.n, -1, g.shape[-1]))
        return None, None, None, None


def _linear(
    anchor: Tensor,
    rows: Rows,
    input: Tensor,  # noqa: A002 (PyTorch's name)
    weight: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    _require_batch_first(input, rows, axes=2)
    rows.require_watched(weight, bias)
    return _Linear.apply(anchor, rows, input, weight, bias)


def _convolution(
    anchor: Tensor,
    rows: Rows,
    input: Tensor,  # noqa: A002 (PyTorch's name)
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: str | int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> Tensor:
    _require_batch_first(input, rows, axes=4)
    rows.require_watched(weight, bias)
    if groups != 1 or isinstance(padding, str):
        raise Unknown("a convolution in groups, or padded by name")
    return _Convolution.apply(
        anchor, rows, input, weight, bias, _pair(stride), _pair(padding), _pair(dilation)
    )


def _group_norm(
    anchor: Tensor,
    rows: Rows,
    input: Tensor,  # noqa: A002 (PyTorch's name)
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    _require_batch_first(input, rows, axes=3)
    rows.require_watched(weight, bias)
    return _GroupNorm.apply(anchor, rows, input, weight, bias, num_groups, eps)


def _embedding(
    anchor: Tensor,
    rows: Rows,
    input: Tensor,  # noqa: A002 (PyTorch's name)
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    _require_batch_first(input, rows, axes=1)
    rows.require_watched(weight)
    if padding_idx is not None or max_norm is not None or scale_grad_by_freq or sparse:
        raise Unknown("an embedding with padding, a largest norm, scaled or sparse gradients")
    return _Embedding.apply(anchor, rows, input, weight)


def _require_batch_first(x: Tensor, rows: Rows, *, axes: int) -> None:
    if x.dim() < axes or x.shape[0] != rows.n * rows.k:
        raise Unknown(f"an input of shape {tuple(x.shape)} in a batch of {rows.n * rows.k}")


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


CALLS: Mapping[Callable[..., Any], Callable[..., Tensor]] = {
    F.linear: _linear,
    F.conv2d: _convolution,
    F.group_norm: _group_norm,
    F.embedding: _embedding,
}
"""PyTorch's function -> the one that stands for it: (anchor, rows, *the same arguments)."""
