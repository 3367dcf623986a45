"""Pictures as models take them, whatever file they come from: upright, RGB, 8 bits a channel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from layerlens.errors import DataError


def as_rgb(where: str, open_picture: Callable[[], Any]) -> Any:
    """Turn a picture into RGB, the way up that its camera noted.

    Args:
        where: What to call it in a message.
        open_picture: Gives a Pillow image.

    Raises:
        DataError: it is no image, damaged, too large to be meant, or of numbers whose range nothing tells.
    """
    from PIL import Image, ImageOps

    try:
        with open_picture() as picture:
            return _in_8_bits(ImageOps.exif_transpose(picture), picture.format).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"cannot read {where} as an image: {reason}; repair or remove it") from error


def _in_8_bits(picture: Any, file_format: str | None) -> Any:
    """Scale grey values of 16 bits: Pillow would cut them at 255, and leave nearly everything white."""
    from PIL import Image

    # Pillow opens such a PGM, and in some versions such a PNG, in its mode of 32 bits.
    if picture.mode.startswith("I;16") or (picture.mode == "I" and file_format in ("PNG", "PPM")):
        return Image.fromarray(np.rint(np.asarray(picture) / 257.0).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise ValueError("its pixels have 32 bits, of a range that nothing tells; save it with 8 or 16")
    return picture
