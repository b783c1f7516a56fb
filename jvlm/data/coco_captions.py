"""COCO captions as published: one JSON of images and annotations beside a folder of pictures."""

from etils import epath

from jvlm.core.errors import UserError
from jvlm.data.conversations import picture_file
from jvlm.data.instructions import read_json
from jvlm.data.sources import BadSample, Sample, digest


class CocoCaptionSource:
    """The pictures of `annotations` (`captions_train2017.json`, arXiv:1504.00325) in the folder `images`, by their id.

    Each sample has all captions of its picture, in the order of their ids. Pictures without a caption are left out.
    UserError for a file that is not COCO's.
    """

    def __init__(self, annotations: str, images: str):
        self.path = epath.Path(annotations)
        self.folder = epath.Path(images)
        found = read_json(self.path)
        try:
            names = {int(one["id"]): str(one["file_name"]) for one in found["images"]}
            captions: dict[int, list[str]] = {}
            for one in sorted(found["annotations"], key=lambda a: a["id"]):
                captions.setdefault(int(one["image_id"]), []).append(str(one["caption"]).strip())
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{self.path}: not COCO's captions ({type(error).__name__}: {error})") from error
        unknown = sorted(set(captions) - set(names))
        if unknown or not captions:
            what = f"captions of picture {unknown[0]}, which it does not list" if unknown else "no captions"
            raise UserError(f"{self.path}: {what}")
        self.items = [(number, names[number], captions[number]) for number in sorted(captions)]
        first = next((p for p in (self.folder / name for _, name, _ in self.items[:8]) if p.exists()), None)
        self.sample_bytes = max(1, first.stat().length if first else 1)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        number, name, captions = self.items[index]
        path = picture_file(self.folder, name, f"{self.path.name}: picture {number}")
        try:
            image = path.read_bytes()
        except (FileNotFoundError, IsADirectoryError) as error:
            raise BadSample(f"{self.path.name}: picture {number}: no picture {name}", "missing picture") from error
        return Sample(image, list(captions), None, name, {"image_id": number})

    def fingerprint(self) -> str:
        """Changes with the pictures' names and captions."""
        return digest("coco_captions", self.items)
