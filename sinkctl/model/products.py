"""A generated token's products: each layer's matrices of one input in one launch, where a kernel is faster."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.functional import linear

from sinkctl.kernels.row_products import select

# Modules of one parent that are given the same input, in the order in which they are called.
SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


class RowProducts:
    """Inside `with active()` the plain linear modules of these blocks are computed so, for inputs of a single row.

    They change class meanwhile: graphs compiled of one layer then serve the others, which they would not if each
    module had a function of its own.
    """

    def __init__(self, blocks: Sequence[nn.Module]):
        chosen = ((group, select([module.weight for module in group])[0]) for group in _groups(blocks))
        self._groups = [(group, products) for group, products in chosen if products is not None]

    def __bool__(self) -> bool:
        return bool(self._groups)

    @contextmanager
    def active(self) -> Iterator[None]:
        for (first, *others), products in self._groups:
            first.__class__, first.products = _First, products
            first.others, first.given, first.parts = tuple(others), None, ()
            for place, module in enumerate(others, start=1):
                module.__class__, module.products = _Later, products
                module.first, module.place = (first,), place
        try:
            yield
        finally:
            for group, _ in self._groups:
                for module in group:
                    for name in ("products", "others", "given", "parts", "first", "place"):
                        vars(module).pop(name, None)
                    module.__class__ = nn.Linear


class _Row(nn.Linear):
    def _is_row(self, x: Tensor) -> bool:
        return x.numel() == x.shape[-1] and x.dtype == self.weight.dtype

    def _products(self, x: Tensor, modules: Sequence[nn.Linear]) -> tuple[Tensor, ...]:
        weights_NK = [module.weight for module in modules]
        return self.products(x.reshape(-1), weights_NK).split([len(weight) for weight in weights_NK])

    def _shaped(self, part_N: Tensor, x: Tensor) -> Tensor:
        part = part_N.view(*x.shape[:-1], -1)
        return part if self.bias is None else part + self.bias


class _First(_Row):
    """Computes for all of its group."""

    def forward(self, x: Tensor) -> Tensor:
        if not self._is_row(x):
            return linear(x, self.weight, self.bias)
        self.given, self.parts = x, self._products(x, [self, *self.others])
        return self._shaped(self.parts[0], x)


class _Later(_Row):
    """Takes its part, where the first of its group was given the same tensor."""

    def forward(self, x: Tensor) -> Tensor:
        (first,) = self.first
        if not self._is_row(x):
            return linear(x, self.weight, self.bias)
        part_N = first.parts[self.place] if first.given is x else self._products(x, [self])[0]
        return self._shaped(part_N, x)


def _groups(blocks: Sequence[nn.Module]) -> Iterator[list[nn.Linear]]:
    """Every plain linear module of the blocks once, beside its siblings."""
    for parent in (module for block in blocks for module in block.modules()):
        plain = {name: child for name, child in parent.named_children() if _plain(child)}
        for names in SIBLINGS:
            alike = [plain[name] for name in names if name in plain]
            if len({module.in_features for module in alike}) == 1:
                yield alike
                plain = {name: child for name, child in plain.items() if name not in names}
        yield from ([child] for child in plain.values())


def _plain(module: nn.Module) -> bool:
    """A matrix in memory, and no forward of its own (offloading, parametrization); hooks see what they would see."""
    return type(module) is nn.Linear and "forward" not in vars(module)
