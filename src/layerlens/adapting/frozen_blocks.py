"""The part of a model below its lowest trained block: no gradient, no dropout, and forward passes that start above it.

    embeddings ─► block 0 … cut-1     frozen: evaluation mode, no graph
               ─► boundary            hidden state [samples tokens hidden] that enters block `cut`
    block cut … last ─► head          trains as ever; `cut` is the number of blocks where the head alone trains

The model's own code runs in both halves: up to the boundary, where the pass is ended, and from it, where each block below
is a stub that gives the boundary back. What a stub gives back carries no graph, so a backward pass ends there, also where
gradient checkpointing makes the embeddings' output ask for a gradient.

Whether a family can be run in halves is tried once, on two samples: the halves must give what the whole gives. Blocks that
share something beside the hidden state (an encoder's output, a position bias of the first block) do not pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float
from peft import PeftModel
from torch import Tensor, nn

from layerlens.errors import LayerLensError
from layerlens.models.forward_hooks import taken_off
from layerlens.models.replaced_forward import replaced_forwards
from layerlens.models.tensors_in import floating_tensors
from layerlens.models.tree import find_blocks, find_head, is_under

Hidden = Float[Tensor, "samples tokens hidden"]

#: How far the two halves may be from the whole, relative to the largest output; the same products in the same order give none.
_TOLERANCE = 1e-5


class FrozenBlocks:
    """Runs the two halves of a model.

    Args:
        model: A task model, or a PEFT model around one; `forward` of its blocks is replaced only inside the methods here.
        blocks: Its blocks in the order they run.
        cut: How many of them, from the first, are frozen; at least one.
    """

    def __init__(self, model: nn.Module, blocks: Sequence[nn.Module], cut: int) -> None:
        self.model, self.cut = model, cut
        self._blocks = list(blocks)
        self._frozen = self._blocks[:cut]
        #: Modules that run below the boundary and nowhere else.
        self._below: list[nn.Module] = []
        #: What a block gives back beside the hidden state; None where it gives the hidden state alone.
        self._extras: int | None = None

    @classmethod
    def of(cls, model: nn.Module) -> FrozenBlocks | None:
        """The blocks below the lowest one with a trainable parameter; None where something trains at or below the first."""
        inner: nn.Module = model.get_base_model() if isinstance(model, PeftModel) else model
        head = find_head(inner)
        found = find_blocks(inner, head)
        trained = {id(parameter): path for path, parameter in inner.named_parameters() if parameter.requires_grad}
        is_apart = any(parameter.requires_grad and id(parameter) not in trained for parameter in model.parameters())
        paths = [path for path in trained.values() if not is_under(path, head)]
        in_blocks = [_block_of(path, found) for path in paths]
        # What trains outside blocks and head may lie anywhere, as embeddings do.
        if is_apart or None in in_blocks:
            return None
        cut = min((place for place in in_blocks if place is not None), default=len(found))
        return cls(model, [block for _, block in found], cut) if cut else None

    def learn(self, inputs: Mapping[str, Any], mask: Bool[Tensor, "samples tokens"] | None) -> bool:
        """Find out what runs below the boundary, and whether the model can start there.

        Args:
            inputs: Model inputs of a sample or two.
            mask: Which of their tokens are no padding; None where all count.

        Returns:
            Whether both halves together give what the whole model gives.
        """
        order: list[int] = []
        before: dict[int, nn.Module] = {}
        after: set[int] = set()
        outputs: list[Any] = []

        def ended(module: nn.Module, _: Any, output: Any) -> None:
            if outputs:
                after.add(id(module))
                return
            before[id(module)] = module
            if module is self._frozen[-1]:
                outputs.append(output)

        handles = [module.register_forward_hook(ended) for module in self.model.modules()]
        handles += [
            block.register_forward_pre_hook(lambda *_, place=place: order.append(place))
            for place, block in enumerate(self._blocks)
        ]
        with taken_off(handles), _evaluating(self.model), torch.no_grad():
            whole = self.model(**inputs)
        if order != list(range(len(self._blocks))):
            return False
        output = outputs[0]
        self._extras = len(output) - 1 if isinstance(output, tuple) else None
        hidden = output[0] if isinstance(output, tuple) else output
        num_samples = len(next(iter(inputs.values())))
        if not isinstance(hidden, Tensor) or hidden.ndim != 3 or len(hidden) != num_samples:
            return False
        before |= {id(module): module for block in self._frozen for module in block.modules()}
        self._below = [module for key, module in before.items() if key not in after]
        if mask is not None:
            if mask.shape != hidden.shape[:2]:
                return False
            hidden = hidden.masked_fill(~mask.unsqueeze(-1), 0.0)
        try:
            with _evaluating(self.model), torch.no_grad(), self.starting_from(hidden):
                halves = self.model(**inputs)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
            # The model's own code misses what a frozen block gives beside the hidden state.
            return False
        return _agree(whole, halves, mask)

    def boundary(self, inputs: Mapping[str, Any]) -> Hidden:
        """Run what is below the boundary, and nothing above it."""
        last = self._frozen[-1]
        run: Callable[..., Any] = last.forward

        def stop(*args: Any, **kwargs: Any) -> Any:
            output = run(*args, **kwargs)
            raise _ReachedError(output[0] if isinstance(output, tuple) else output)

        with _evaluating(self.model), torch.no_grad(), replaced_forwards([(last, stop)]):
            try:
                self.model(**inputs)
            except _ReachedError as reached:
                return reached.hidden
        raise LayerLensError(f"block {self.cut - 1} did not run in a forward pass; report this with the model")

    @contextmanager
    def starting_from(self, hidden: Hidden) -> Iterator[None]:
        """Let a forward pass of the model start at the boundary with this hidden state.

        Modules below are in evaluation mode afterwards, so that they draw nothing from the random state.
        """
        for module in self._below:
            module.training = False
        if self._is_reentrant():
            # This kind of checkpointing gives no gradients at all unless an input asks for one.
            hidden = hidden.detach().requires_grad_()
        given = hidden if self._extras is None else (hidden, *[None] * self._extras)
        num_calls = 0

        def stub(*_: Any, **__: Any) -> Any:
            nonlocal num_calls
            num_calls += 1
            return given

        with replaced_forwards([(block, stub) for block in self._frozen]):
            yield
        if num_calls != self.cut:
            raise LayerLensError(
                f"{num_calls} of the {self.cut} frozen blocks were asked for in a training step; switch off what skips "
                "blocks at random (layerdrop in the model's config)"
            )

    def _is_reentrant(self) -> bool:
        for block in self._blocks[self.cut :]:
            if getattr(block, "gradient_checkpointing", False):
                settings: Mapping[str, Any] = getattr(getattr(block, "_gradient_checkpointing_func", None), "keywords", {})
                return bool(settings.get("use_reentrant", True))
        return False


class _ReachedError(Exception):
    """Ends a forward pass at the boundary."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden.detach()


def _block_of(path: str, blocks: Sequence[tuple[str, nn.Module]]) -> int | None:
    return next((place for place, (block, _) in enumerate(blocks) if is_under(path, [block])), None)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every module is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, is_training in modes:
            module.training = is_training


def _agree(whole: Any, halves: Any, mask: Bool[Tensor, "samples tokens"] | None) -> bool:
    """Whether two outputs of a model hold the same numbers, at real tokens where they are given by token."""
    pairs = list(zip(floating_tensors(whole), floating_tensors(halves), strict=True))
    for one, other in pairs:
        if one.shape != other.shape:
            return False
        is_by_token = mask is not None and one.shape[:2] == mask.shape
        expected, found = (one[mask], other[mask]) if is_by_token else (one, other)
        scale = float(expected.abs().max()) if expected.numel() else 0.0
        if not torch.allclose(expected.float(), found.float(), rtol=0.0, atol=_TOLERANCE * max(scale, 1e-6)):
            return False
    return bool(pairs)
