"""Flickr8k: photographs of people and dogs, five English captions each.

Captions and the three lists of images are fetched from a pinned address. The photographs have none
that could be pinned: they come from the user's own folder, or from a mirror that holds
`flickr8k_captions/flickr8k_first1000_64x64.npz`, the first 1,000 by name at 64x64 (753 of train,
113 of dev, 125 of test, 9 of none). Images of no list are left out, and so is what a list has and
the folder has not.

References: Hodosh, Young and Hockenmaier, 2013 (captions, lists; for research, not to be passed
on). Photographs belong to their authors.
"""

from pathlib import Path
from typing import Any

import numpy as np

from seqlab.data import sources
from seqlab.data.captions import IMAGE_SIZE, Captioned, read_captions, read_images
from seqlab.data.text import read_utf8
from seqlab.errors import InputError

SET = "flickr8k_captions"
LISTS = {
    "train": "Flickr_8k.trainImages.txt",
    "valid": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}
SMALL_IMAGES = sources.StandIn(
    "flickr8k_first1000_64x64.npz",
    10_935_040,
    "d46cce6cae7143c240b3f3f63d105c3f06279434b812446abae6fc9782dd94e7",
)
WHERE = (
    "github.com/quantumnaan/sic_translator, data/images at commit "
    "d27da85cff2dbf143fcaf365aece667d66c4298f"
)


def load_flickr(folder: Path | None = None) -> Captioned:
    """Flickr8k in its own parts, "valid" being its dev part.

    Args:
      folder: of the photographs, by their own names; None for the mirror's 1,000.

    Raises:
      InputError: no photographs, in one message that says how to come by them; a folder without an
        image of each part; what `sources.fetch`, `read_captions` and `read_image` raise.
    """
    if folder is None:
        archive = sources.in_mirror(SET, SMALL_IMAGES)
        if archive is None:
            raise InputError(
                f"flickr8k needs its photographs: name their folder with --images ({WHERE}), or "
                f"set {sources.MIRROR_VARIABLE} to a folder that holds {SET}/{SMALL_IMAGES.name}"
            )
        with np.load(archive) as content:
            places = {name: i for i, name in enumerate(content["names"].tolist())}
            images = content["images"]
    elif not folder.is_dir():
        raise InputError(f"{folder} is not a folder of images")
    else:
        places, images = {path.name: -1 for path in folder.iterdir()}, None
    files = sources.fetch(SET)
    captions = read_captions(files["Flickr8k.token.txt"])
    found: dict[str, Any] = {}
    names = {}
    for part, file in LISTS.items():
        listed = [name for name in read_utf8(files[file]).split("\n") if name]
        names[part] = [name for name in listed if name in places and name in captions]
        if not names[part]:
            raise InputError(f"{folder} has none of the {len(listed)} images of {file}")
        own = names[part]
        found[part] = (
            read_images(Path(folder or ""), own)
            if images is None
            else images[[places[name] for name in own]]
        )
    counts = ", ".join(f"{part} {len(own)}" for part, own in names.items())
    return Captioned(
        "flickr8k",
        found,
        {part: [captions[name].sentences for name in own] for part, own in names.items()},
        names,
        notes=(
            f"images: {counts}, of 6000, 1000 and 1000, made {IMAGE_SIZE}x{IMAGE_SIZE}: figures "
            "are not comparable with those of the whole set at full size",
            "captions are lower-cased and cut into words and signs; so are the references",
        ),
    )
