"""What a backward pass leaves behind of each record's weight gradients, and the memory they are written to.

A pass over a whole micro-batch keeps, in `Kept`, the factors of every weight gradient; they are small beside
the gradients themselves.  `Rows` multiplies them out for some records at a time, so memory for them does not
grow with the micro-batch, and a large network goes through in as large ones as a small network.

Ghost norms and book-keeping (Bu et al. 2023, arXiv 2210.00038) never write a record's gradient down: its norm
comes from the factors and the sum from a second, weighted product.  That is not our mechanism: each record's
clipped gradient is rounded to the integer grid, coordinate by coordinate, BEFORE it is summed, and the
sensitivity is the norm of those integers, which a weighted product of floats never forms.

Not covered: what the factors of a layer are (`layers`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn


class Unknown(Exception):
    """A parameter is used in a way whose per-example gradient these layers cannot give."""


class Kept:
    """What the layers of one backward pass over `n` records of `k` draws leave behind, a part a parameter.

    `k` rows of the network's batch in succession belong to one record.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], n: int, k: int) -> None:
        self.n, self.k = n, k
        self.parts: list[Callable[[Rows, slice], None]] = []
        self._watched = {id(p): name for name, p in parameters.items()}
        self._seen: set[int] = set()

    def watches(self, parameter: object) -> bool:
        """Say whether this parameter's gradients are asked for."""
        return id(parameter) in self._watched

    def require_watched(self, *tensors: Tensor | None) -> None:
        """Refuse a weight that has a gradient and is none of the parameters, but derived from one.

        Raises:
            Unknown: its gradient would be lost.
        """
        if any(t is not None and t.requires_grad and not self.watches(t) for t in tensors):
            raise Unknown("a weight or a bias is derived from a parameter")

    def product(self, parameter: Tensor, left: Tensor, right: Tensor) -> None:
        """Keep `left` @ `right`, of shape (n, a, b) with a * b weights in memory order."""
        self.products(parameter, lambda some: [(left[some], right[some])])

    def products(
        self, parameter: Tensor, factors: Callable[[slice], Iterable[tuple[Tensor, Tensor]]]
    ) -> None:
        """Keep what `factors` gives for some records: left @ right for some of them after others."""
        self._seen.add(id(parameter))
        self.parts.append(lambda rows, some: rows.add_products(parameter, factors(some)))

    def values(self, parameter: Tensor, values: Tensor) -> None:
        """Keep `values`, (n, weights in memory order)."""
        self._seen.add(id(parameter))
        self.parts.append(lambda rows, some: rows.add(parameter, values[some]))

    def require_all(self) -> None:
        """Refuse a backward pass in which some parameter took no part.

        Raises:
            Unknown: its gradient would be what stood in memory before.
        """
        missing = [name for key, name in self._watched.items() if key not in self._seen]
        if missing:
            raise Unknown(f"{min(missing)} has no gradient")


class Rows(Mapping[str, Tensor]):
    """The per-example gradients of some records: {parameter: (n, *shape)}, views of memory used again.

    In memory a convolution's weights lie output by row by column by input channel, because patches gathered
    along the channels are copied in long runs.  Parameters that are used more than once add up.

    Guarantees: after `write` or `close` what was computed before cannot be read here any more, so no record
    is counted with the numbers of another.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], n: int) -> None:
        self.n = n
        self.parameters = dict(parameters)
        self._names = {id(p): name for name, p in parameters.items()}
        self._memory = {name: p.new_empty((n, p.numel())) for name, p in parameters.items()}
        self._written: set[str] = set()
        self._shown = False

    def fits(self, parameters: Mapping[str, nn.Parameter], n: int) -> bool:
        """Say whether this is the memory for `n` records' gradients of these parameters."""
        return (
            self.n == n
            and self._names == {id(p): name for name, p in parameters.items()}
            and all(
                memory.dtype == p.dtype and memory.device == p.device
                for memory, p in zip(self._memory.values(), parameters.values(), strict=True)
            )
        )

    def close(self) -> None:
        """Forget the records."""
        self._written.clear()
        self._shown = False

    def write(self, kept: Kept, start: int, real: int) -> Rows:
        """Multiply out the gradients of `n` records from `start`; behind the first `real` they are zeros."""
        self.close()
        with torch.no_grad():
            for part in kept.parts:
                part(self, slice(start, start + self.n))
        for memory in self._memory.values() if real < self.n else ():
            memory[real:] = 0.0
        self._shown = True
        return self

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
            raise RuntimeError("these records are over: their memory belongs to the next ones")
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
