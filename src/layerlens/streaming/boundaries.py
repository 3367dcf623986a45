"""Which block boundaries are kept on disk, and which are computed again, so that the store stays within its bytes.

Blocks are cut into groups. The input of each group is kept from the forward pass on (that of the first block comes from the
embeddings again); inside a group inputs are computed anew, from the group's own, just before its backward pass. Groups above
that are done have given their slots back, so the lower a group the longer it may be:

    slots = kept inputs + inputs inside the group at hand + 2 (the gradient coming in, and the one going out)

With P slots and m groups the top group holds P − m blocks and each one below it one more; each block that is not the first of
its group costs one forward pass more. The largest m that covers all blocks costs least.
Source: checkpointing as in Griewank, Walther (2000), Algorithm 799: revolve, with one level.
"""

from __future__ import annotations


def fewest_slots(num_blocks: int, num_gradients: int = 1) -> int:
    """Slots that suffice, however much is computed again.

    Args:
        num_blocks: Blocks of the model.
        num_gradients: Gradients that go down through the blocks: one, or two with sampled labels.
    """
    slots = 2 * num_gradients
    while not _groups(num_blocks, slots, num_gradients):
        slots += 1
    return slots


def most_slots(num_blocks: int, num_gradients: int = 1) -> int:
    """Slots with which nothing is computed again."""
    return num_blocks - 1 + 2 * num_gradients


def block_groups(num_blocks: int, num_slots: int, num_gradients: int = 1) -> list[range]:
    """Cut the blocks into groups for a number of slots, lowest first.

    Raises:
        ValueError: the slots do not suffice.
    """
    groups = _groups(num_blocks, min(num_slots, most_slots(num_blocks, num_gradients)), num_gradients)
    if not groups:
        raise ValueError(f"{num_slots} slots do not suffice for {num_blocks} blocks")
    return groups


def _groups(num_blocks: int, num_slots: int, num_gradients: int) -> list[range]:
    free = num_slots - 2 * num_gradients
    for count in range(min(num_blocks, free + 1), 0, -1):
        # m − 1 kept inputs and the top group's t − 1 inner ones.
        top = free - (count - 1) + 1
        if sum(top + below for below in range(count)) < num_blocks:
            continue
        sizes: list[int] = []
        left = num_blocks
        for below in range(count):
            # From the top down; every group below still needs a block.
            size = min(top + below, left - (count - 1 - below))
            sizes.append(size)
            left -= size
        starts = [sum(sizes[position + 1 :]) for position in range(count)]
        return [range(start, start + size) for start, size in zip(starts[::-1], sizes[::-1], strict=True)]
    return []
