"""A model's own code without its blocks: what surrounds them runs, the blocks themselves are called one at a time.

    entry(inputs)            embeddings ──► hidden;  arguments of every block (masks, positions)      blocks are stubs
    call(block, hidden, …)   one block on one batch
    finish(inputs, hidden)   final norm, pooler, head ──► the model's output                           blocks are stubs

So masks, position embeddings and heads come from the model itself, whatever its family, and no forward pass is written anew.
That holds only where a block hands the next one its hidden state as it is and nothing else; other models are refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from layerlens.errors import UnsupportedModelError
from layerlens.models.foreign import one_line
from layerlens.models.replaced_forward import replaced_forwards
from layerlens.models.streamed.row_embedding import RowEmbedding

Hidden = Float[Tensor, "samples tokens hidden"]

#: What to do with a model that cannot be streamed, where there is a way without.
IN_MEMORY = "profile it in memory (--execution memory)"

#: What a model's own code raises where it misses something that its blocks or tables have in memory.
_MISSING = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class BlockCall:
    """Arguments of one block beside the hidden state."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """What reaches the blocks: the first one's hidden state, and every block's other arguments."""

    hidden: Hidden
    calls: list[BlockCall]


class Skeleton:
    """Runs what surrounds the blocks of a model, and its blocks one at a time.

    Args:
        model: A task model; its blocks' `forward` is replaced only while `entry` or `finish` runs.
        blocks: Full paths of its blocks, in the order they run.
        way_out: What to do with a model that is refused.
    """

    def __init__(self, model: nn.Module, blocks: list[str], way_out: str = IN_MEMORY) -> None:
        self.model, self._way_out = model, way_out
        self._names = blocks
        self._blocks = [model.get_submodule(path) for path in blocks]
        kinds = {type(block) for block in self._blocks}
        if len(kinds) != 1:
            names = ", ".join(sorted(kind.__name__ for kind in kinds))
            raise UnsupportedModelError(f"blocks of {len(kinds)} kinds ({names}) cannot be streamed; {way_out}")
        self._tables = [module for module in model.modules() if isinstance(module, RowEmbedding)]
        #: Items of the tuple that a block gives back, the hidden state first; 0 where it gives that alone. Known after `probe`.
        self._num_items: int | None = None

    @property
    def device(self) -> torch.device:
        """Where the model's vectors are, and inputs have to be."""
        return next(self.model.parameters()).device

    def probe(self, inputs: Mapping[str, Any]) -> Hidden:
        """Learn what a block gives back from one call of the first one; returns its output.

        Raises:
            UnsupportedModelError: the blocks do not pass one hidden state from each to the next, or one runs twice.
        """
        # What a stub must give back is not known yet, so the pass ends at the first one.
        entry = self._entry(inputs, num_calls=1)
        with self._own_code(), torch.no_grad():
            output = self._blocks[0](entry.hidden, *entry.calls[0].args, **entry.calls[0].kwargs)
        self._num_items = len(output) if isinstance(output, tuple) else 0
        hidden = output[0] if isinstance(output, tuple) else output
        if not isinstance(hidden, Tensor) or hidden.shape != entry.hidden.shape:
            raise UnsupportedModelError(
                f"block {self._names[0]} does not map a hidden state to one of the same shape; {self._way_out}"
            )
        self._refuse_repeats(inputs)
        return hidden

    def entry(self, inputs: Mapping[str, Any], *, is_blank: bool = False) -> Entry:
        """Run what comes before the blocks.

        Args:
            inputs: The model's inputs.
            is_blank: Leave the embedding tables unread; only the calls are wanted then.

        Raises:
            UnsupportedModelError: the blocks take more from each other than one hidden state.
        """
        if self._num_items is None:
            self.probe(inputs)
        with self._blank_tables(is_wanted=is_blank):
            return self._entry(inputs, num_calls=len(self._blocks))

    def call(self, block: int, hidden: Hidden, call: BlockCall) -> Hidden:
        """Run one block, hooks on it and on its layers included."""
        output = self._blocks[block](hidden, *call.args, **call.kwargs)
        result: Hidden = output[0] if isinstance(output, tuple) else output
        return result

    def finish(self, inputs: Mapping[str, Any], hidden: Hidden) -> Any:
        """Run the model with `hidden` as what its last block gives back; gradients flow to it."""
        with self.finishing(hidden), self._own_code():
            return self.model(**inputs)

    @contextmanager
    def finishing(self, hidden: Hidden) -> Iterator[None]:
        """Let every forward pass of the model give `hidden` as what its last block gives back, until the context ends."""
        last = len(self._blocks) - 1

        def stub(block: int, given: Tensor, _: BlockCall) -> Tensor:
            return hidden if block == last else given

        with self._blank_tables(), self._stubbed(stub):
            yield

    def _entry(self, inputs: Mapping[str, Any], *, num_calls: int) -> Entry:
        calls: list[BlockCall] = []
        first: list[Tensor] = []
        given: list[_Place] = []

        def stub(block: int, hidden: Tensor, call: BlockCall) -> Tensor:
            if block != len(calls):
                raise UnsupportedModelError(f"the blocks do not run one after the other; {self._way_out}")
            if not first:
                first.append(hidden.detach())
                given.append(_place(hidden))
            # What every stub gives back is what the first one got.
            if given[0] != _place(hidden):
                raise self._refused(f"it changes the hidden state between {self._names[block - 1]} and {self._names[block]}")
            if _is_withheld_in((call.args, call.kwargs)):
                raise self._refused(f"{self._names[block]} reads what the block before it gives beside the hidden state")
            calls.append(call)
            if len(calls) == num_calls:
                raise _EnoughError
            return hidden

        with self._stubbed(stub), self._own_code(), torch.no_grad():
            try:
                self.model(**inputs)
            except _EnoughError:
                return Entry(first[0], calls)
        raise UnsupportedModelError(f"{len(calls)} of {len(self._blocks)} blocks ran in a forward pass; {self._way_out}")

    @torch.no_grad()
    def _refuse_repeats(self, inputs: Mapping[str, Any]) -> None:
        """Refuse a model that runs a block again after the others, as ALBERT does: `_entry` would not see it."""
        ran: set[int] = set()

        def stub(block: int, hidden: Tensor, _: BlockCall) -> Tensor:
            if block in ran:
                raise UnsupportedModelError(
                    f"{type(self.model).__name__} runs {self._names[block]} more than once in a forward pass; a model whose "
                    "layers share their weights can be neither profiled nor compressed"
                )
            ran.add(block)
            return hidden

        def enough(*_: Any, **__: Any) -> None:
            raise _EnoughError

        # A language model's head is as large as all of a block, and nothing runs behind it.
        head = getattr(self.model, "get_output_embeddings", lambda: None)()
        ends = [] if head is None else [(head, enough)]
        with self._blank_tables(), self._stubbed(stub), replaced_forwards(ends), self._own_code(), suppress(_EnoughError):
            self.model(**inputs)

    def _stubbed(self, stub: Callable[[int, Tensor, BlockCall], Tensor]) -> AbstractContextManager[None]:
        return replaced_forwards(
            [(module, _Stub(position, stub, self._num_items or 0)) for position, module in enumerate(self._blocks)]
        )

    @contextmanager
    def _own_code(self) -> Iterator[None]:
        """Tell in one line that the model's own code fails around its blocks."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except _MISSING as error:
            raise self._refused(f"its own code fails there ({one_line(error)})") from error

    def _refused(self, reason: str) -> UnsupportedModelError:
        return UnsupportedModelError(f"{type(self.model).__name__} cannot run block by block: {reason}; {self._way_out}")

    @contextmanager
    def _blank_tables(self, *, is_wanted: bool = True) -> Iterator[None]:
        """Leave the embedding tables unread until the context ends."""
        for table in self._tables:
            table.is_blank = is_wanted
        try:
            yield
        finally:
            for table in self._tables:
                table.is_blank = False


class _EnoughError(Exception):
    """Ends a forward pass once every block was asked for."""


class _Withheld:
    """Stands for what a block gives back beside the hidden state."""


#: Where a tensor lies, and how often it was changed there.
_Place = tuple[int, tuple[int, ...], tuple[int, ...], int]


def _place(hidden: Tensor) -> _Place:
    return hidden.data_ptr(), tuple(hidden.shape), hidden.stride(), hidden._version


def _is_withheld_in(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_is_withheld_in, value.values()))
    return any(map(_is_withheld_in, value)) if isinstance(value, tuple | list) else isinstance(value, _Withheld)


class _Stub:
    """Stands in for a block's `forward`, which gives back a tuple of so many items, or none."""

    def __init__(self, position: int, stub: Callable[[int, Tensor, BlockCall], Tensor], num_items: int) -> None:
        self._position, self._stub, self._num_items = position, stub, num_items

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if args:
            hidden, rest = args[0], args[1:]
        else:
            kwargs = dict(kwargs)
            hidden, rest = kwargs.pop("hidden_states"), ()
        output = self._stub(self._position, hidden, BlockCall(rest, kwargs))
        return (output, *[_Withheld()] * (self._num_items - 1)) if self._num_items else output
