"""LLaVA-NeXT's pictures: the whole one, then tiles of it at the resolution that wastes least.

Equal to transformers' LlavaNext processor with its Pillow backend (arXiv:2310.03744, section 3.4, and the LLaVA-NeXT
release): the picture is scaled to fit one of `grids`, laid in the middle of it on black, and cut into tiles. Of the
tiles' patches those that are padding take no token, and each row of patches ends with a learned new line.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int, Int32
from PIL import Image

from jvlm.core.errors import ConfigError
from jvlm.data import image_ops
from jvlm.data.image_spec import ImageSpec
from jvlm.data.pictures import NEWLINE

GRIDS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
"""The published resolutions (height, width)."""


@dataclass(frozen=True)
class AnyResolution:
    """Tiles of `spec.size`, square, of `side` x `side` patches; `grids` are multiples of the tile.

    `spec` is how each tile is made, CLIP's crop included.
    """

    spec: ImageSpec
    side: int
    grids: Sequence[tuple[int, int]] = GRIDS

    def __post_init__(self) -> None:
        tile = self.spec.size[0]
        if self.spec.size != (tile, tile):
            raise ConfigError(f"any-resolution tiles are square, not {self.spec.size}")
        for grid in self.grids:
            if grid[0] % tile or grid[1] % tile:
                raise ConfigError(f"any-resolution grid {tuple(grid)} is no multiple of the tile, {tile}")

    @property
    def size(self) -> tuple[int, int]:
        return self.spec.size

    @property
    def features(self) -> int:
        return self.side**2

    def count(self, height: int, width: int) -> int:
        """Tokens of a picture of `height` x `width` pixels."""
        return len(self.places(height, width))

    def tiles(self, height: int, width: int) -> int:
        """The whole picture and the tiles of its grid."""
        rows, columns = self._shape(height, width)
        return 1 + rows * columns

    def places(self, height: int, width: int) -> Int32[np.ndarray, "n"]:
        """The whole picture's features, then the grid's without its padding, row by row, each ended by NEWLINE."""
        rows, columns = self._shape(height, width)
        side = self.side
        number = np.arange(rows * columns * side**2).reshape(rows, columns, side, side) + side**2
        grid = number.transpose(0, 2, 1, 3).reshape(rows * side, columns * side)
        kept = unpadded(grid, height, width)
        ended = np.concatenate([kept, np.full((len(kept), 1), NEWLINE)], axis=1)
        return np.concatenate([np.arange(side**2), ended.reshape(-1)]).astype(np.int32)

    def arrays(self, picture: image_ops.Picture) -> Float32[np.ndarray, "k H W 3"]:
        """The tiles in the order of `places`; BadPicture when the picture cannot be read."""
        image = image_ops.read_picture(picture, self.spec.style)
        resample = image_ops.RESAMPLING[self.spec.interpolation]
        height, width = best_grid(image.height, image.width, self.grids)
        inside = scaled_size(image.height, image.width, height, width)
        canvas = Image.new("RGB", (width, height))
        place = ((width - inside[1]) // 2, (height - inside[0]) // 2)
        canvas.paste(image.resize((inside[1], inside[0]), resample), place)
        tile = self.spec.size[0]
        boxes = [(x, y, x + tile, y + tile) for y in range(0, height, tile) for x in range(0, width, tile)]
        made = [image.resize((tile, tile), resample), *(canvas.crop(box) for box in boxes)]
        return np.stack([image_ops.normalize(np.asarray(image_ops.fit(one, self.spec)), self.spec) for one in made])

    def _shape(self, height: int, width: int) -> tuple[int, int]:
        grid = best_grid(height, width, self.grids)
        return grid[0] // self.spec.size[0], grid[1] // self.spec.size[1]


def best_grid(height: int, width: int, grids: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The grid in which most of the picture's pixels are kept, and of those the one with least padding."""

    def merit(grid: tuple[int, int]) -> tuple[int, int]:
        scale = min(grid[1] / width, grid[0] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - grid[0] * grid[1]

    height_of_grid, width_of_grid = max(grids, key=merit)  # the first of equals
    return height_of_grid, width_of_grid


def scaled_size(height: int, width: int, rows: int, columns: int) -> tuple[int, int]:
    """(height, width) of the picture scaled to touch `rows` x `columns` from inside, rounded up."""
    across, down = columns / width, rows / height
    if across < down:
        return min(int(np.ceil(height * across)), rows), columns
    return rows, min(int(np.ceil(width * down)), columns)


def unpadded(grid: Int[np.ndarray, "h w"], height: int, width: int) -> np.ndarray:
    """The part of a grid of patches that a picture of `height` x `width` pixels covers."""
    rows, columns = grid.shape
    if width / height > columns / rows:
        covered = int(round(height * (columns / width), 7))
        margin = (rows - covered) // 2
        return grid[margin : rows - margin]
    covered = int(round(width * (rows / height), 7))
    margin = (columns - covered) // 2
    return grid[:, margin : columns - margin]
