"""How large every picture of a source is, or every array of latents: from headers, before training, and kept."""

from etils import epath

from jvlm.data.batches import stored_shape
from jvlm.data.image_ops import MAX_DECODED_BYTES, BadPicture, picture_size
from jvlm.data.measured import Table, measure_all
from jvlm.data.sources import BadSample, Source, head

HEAD = 2**16
"""Bytes that the header of nearly every JPEG file lies in, its EXIF data included."""
ARRAY_HEAD = 2**10
"""Bytes that the header of a `.npy` file lies in."""


def measure_sizes(
    source: Source, latents: bool, cache: epath.PathLike | None = None, max_bytes: int = MAX_DECODED_BYTES
) -> Table:
    """(height, width) of each picture of `source`, turned upright, or with `latents` of each array.

    From the folder `cache` when they were measured before. Nothing is decoded.
    """

    def one(index: int) -> tuple[int, int]:
        return latents_size(source, index) if latents else size_of(source, index, max_bytes)

    return measure_all(one, len(source), 2, "sizes", cache, source.fingerprint(), str(latents or max_bytes))


def size_of(source: Source, index: int, max_bytes: int = MAX_DECODED_BYTES) -> tuple[int, int]:
    """(height, width) of a picture, upright; BadSample or BadPicture when it cannot be used."""
    data = head(source, index, HEAD)
    if len(data) == HEAD:  # there may be more of it
        if data.startswith(b"\xff\xd8\xff"):
            try:
                return picture_size(data, max_bytes=max_bytes)
            except BadPicture:
                pass  # a header that is longer still
        data = source[index].image  # other formats have their orientation at the end
    return picture_size(data, max_bytes=max_bytes)


def latents_size(source: Source, index: int) -> tuple[int, int]:
    """(height, width) of an array of latents; BadSample when it is none."""
    shape = stored_shape(head(source, index, ARRAY_HEAD))
    if len(shape) != 3:
        raise BadSample(f"an array {list(shape)}, latents have three axes", "broken latents")
    return shape[0], shape[1]
