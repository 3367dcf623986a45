"""What the options of every matrix hold, on disk: one safetensors file for each, written when the matrix is solved.

OUT.curves/factors/model.layers.0.mlp.up_proj.safetensors     int4.codes, int4.scales, whitened.up, whitened.down, …

Another budget takes what it needs from here: codes of one width are read, not found anew, and a factor only as far as its rank.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from layerlens.artifacts.compression import FACTORS_FOLDER, Option
from layerlens.compressing.matrices import matrices_of, read_matrix
from layerlens.compressing.options import needed_tensors, restored_option, tensors_of_option
from layerlens.errors import CheckpointError, ConfigError, ManifestError
from layerlens.models.headers import read_headers
from layerlens.models.streamed.load import StreamedModel
from layerlens.models.streamed.tensor_reader import TensorReader


class FactorCache:
    """The factors of one run.

    Args:
        folder: The run's curves folder, `OUT.curves`.
        model: The model, for options that are made from a matrix itself; none where only kept ones are asked for.
    """

    def __init__(self, folder: Path, model: StreamedModel | None = None) -> None:
        self.folder, self._model = folder / FACTORS_FOLDER, model
        self._matrices = {} if model is None else {matrix.layer: matrix for matrix in matrices_of(model)}

    def path(self, layer: str) -> Path:
        """The file of a matrix."""
        return self.folder / f"{layer}.safetensors"

    def write(self, layer: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep what the options of a matrix hold.

        Raises:
            ConfigError: the disk is full, or the folder cannot be written to.
        """
        write_tensors(self.path(layer), tensors)

    def tensors_of(self, layer: str, option: Option) -> dict[str, Tensor]:
        """What an option of a matrix stores, by name within its module: exactly what `stored` gives for it.

        Raises:
            ManifestError: the matrix's file is missing or damaged.
        """
        needed = needed_tensors(option)
        found = self._read(layer, needed) if needed else {}
        return tensors_of_option(option, found, None if needed else self._weight(layer, option))

    def weight_of(self, layer: str, option: Option, out_features: int, in_features: int) -> Float[Tensor, "out in"]:
        """The matrix [out_features in_features] that an option stands for, in float32."""
        return restored_option(option, self.tensors_of(layer, option), out_features, in_features)

    def _weight(self, layer: str, option: Option) -> Tensor:
        """The matrix as the checkpoint has it."""
        if self._model is None:
            raise ManifestError(f"{option.scheme.name} of {layer} is made from the checkpoint; open the model as well")
        return read_matrix(self._model, self._matrices[layer])

    def _read(self, layer: str, needed: Mapping[str, int | None]) -> dict[str, Tensor]:
        path = self.path(layer)
        try:
            return read_tensors(path, needed)
        except (CheckpointError, KeyError) as error:
            what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            raise ManifestError(f"cannot take factors from {path} ({what}); remove {self.folder.parent} and run again") from error


def read_tensors(path: Path, rows: Mapping[str, int | None] | None = None) -> dict[str, Tensor]:
    """Read tensors of a safetensors file.

    Args:
        path: The file.
        rows: Which, and how many rows of each from the front, none for all; None for every tensor.

    Raises:
        CheckpointError: the file is missing or damaged.
        KeyError: it lacks one.
    """
    headers = read_headers(path)
    reader = TensorReader(headers)
    try:
        return {name: reader.read(name, 0, stop) for name, stop in (rows or dict.fromkeys(headers)).items()}
    finally:
        reader.close()


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as one safetensors file, atomically, with the same bytes for the same tensors.

    Raises:
        ConfigError: the disk is full, or the folder cannot be written to.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(descriptor)
        save_file({name: tensors[name].contiguous() for name in sorted(tensors)}, temporary)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except (OSError, SafetensorError) as error:
        is_full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        size = sum(tensor.nbytes for tensor in tensors.values())
        if is_full:
            raise ConfigError(
                f"the disk of {path.parent} is too full for the factors of {path.stem}, {size / 2**20:,.0f} MiB; free some space "
                "or choose another output folder"
            ) from error
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot write {path}: {reason}; choose another output folder") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
