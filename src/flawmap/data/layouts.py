"""Which files of a folder are good, which are defective, and what shows the defects of which image.

The layouts: MVTec AD (train/good, test/<kind>, ground_truth/<kind>), the textures of Bergmann et al. 2019 (the same
with the one kind "defective"), MVTec LOCO AD (the same with a folder of masks for each image), folders of good and of
bad images with masks beside them (NanoTWICE is one of these), labelme's JSON beside images, COCO's annotations, a CSV
manifest, and a plain folder of good images. No image is opened here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from flawmap.core.errors import InputError
from flawmap.core.files import first_few, natural_key
from flawmap.data.annotations import looks_like_coco, looks_like_labelme, read_coco, read_labelme
from flawmap.data.finding import files_below
from flawmap.data.manifest import read_manifest
from flawmap.data.samples import Dataset, Finding, Sample, SplitName
from flawmap.imaging.formats import IMAGE_SUFFIXES, is_image

# Names of folders, in any letter case, without spaces, "_" and "-".
_GOOD = {"good", "normal", "ok", "io", "pass", "defectfree"}
_BAD = {
    "abnormal", "anomalous", "anomaly", "anomalies", "bad", "defect", "defective", "defects", "fail", "flawed", "ng",
    "nio", "nok", "notok",
}  # fmt: skip
_MASKS = {"groundtruth", "gt", "mask", "masks"}
_IMAGES = {"image", "images", "img", "imgs"}
_TRAIN, _VALIDATION, _TEST = {"train", "training"}, {"validation", "valid", "val"}, {"test", "testing", "testpublic"}

_ENDINGS = ("_mask", "_gt", "_label", "")
"""What a mask's name may have after its image's name; the first one wins."""
_ADVICE = "lay it out as good/, bad/<kind>/ and masks/, or as train/good, test/<kind> and ground_truth/<kind>"


def find_dataset(path: Path) -> Dataset:
    """The images and masks of a folder, a CSV manifest or COCO annotations, by whichever of the layouts it has.

    Raises:
        InputError: nothing there, no image in it, no good images to train on, a layout that mixes good and bad
            in ways unknown here, or a manifest or annotations with mistakes.
    """
    if path.is_file():
        if path.suffix.lower() == ".csv":
            return read_manifest(path)
        if path.suffix.lower() == ".json":
            return _coco(path.parent, [path])
        raise InputError(f"{path} is a file; a data set is a folder of images, a CSV manifest or COCO annotations")
    if not path.is_dir():
        raise InputError(f"no such folder: {path}")
    if not any(path.iterdir()):
        raise InputError(f"the folder {path} is empty")
    _refuse_part(path)
    if _folders(path, _TRAIN | _TEST):
        return _mvtec(path)
    for place in (path, *_folders(path, _IMAGES)):
        if _folders(place, _GOOD):
            return _good_and_bad(path, place)
    annotations = _coco_files(path)
    return _coco(path, annotations) if annotations else _one_folder(path)


def _folders(root: Path, names: set[str] | None = None) -> list[Path]:
    """The visible folders directly in a folder, of these names, in natural order."""
    found = (entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return sorted((entry for entry in found if names is None or _word(entry.name) in names), key=natural_key)


def _word(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter not in " _-")


def _only(root: Path, names: set[str]) -> Path | None:
    """The one folder of these names, None if there is none; two of one meaning are refused."""
    found = _folders(root, names)
    if len(found) > 1:
        raise InputError(f"{root} has the folders {found[0].name} and {found[1].name}, which mean the same; join them")
    return found[0] if found else None


# -------------------------------------------------------------------------------------------------------------- folders


def _mvtec(root: Path) -> Dataset:
    train, validation, test = (_only(root, names) for names in (_TRAIN, _VALIDATION, _TEST))
    good = None if train is None else _only(train, _GOOD)
    if train is None or good is None:
        annotations = _coco_files(root)
        if annotations:
            return _coco(root, annotations)
        raise InputError(f"{root} has no folder train/good; put the good images to train on there")
    finding = Finding(root)
    finding.add_good(good, "train")
    _some_good(finding, good)
    truth = _only(root, _MASKS) or (test and _only(test, _MASKS))
    finding.ignore_others(train, (good,), f"only {good.relative_to(root).as_posix()} is trained on")
    if validation is not None:
        held = _only(validation, _GOOD)
        if held is not None:
            finding.add_good(held, "validation")
        finding.ignore_others(validation, [held] if held else [], "only good images validate")
    kinds = [] if test is None else [folder for folder in _folders(test) if folder != truth]
    several = [_add_kind(finding, kind, truth) for kind in kinds]
    if test is not None:
        finding.ignore_others(test, [*kinds, truth] if truth else kinds, "not in a folder test/<kind>")
    if truth is not None:
        used = [_truth_folder(truth, kind) for kind in kinds]
        reason = "masks without images" if test is not None else "no folder test beside it"
        finding.ignore_others(truth, [folder for folder in used if folder], reason)
    known = [folder for folder in (train, validation, test, truth) if folder is not None]
    if any(several):
        finding.ignore(root / "defects_config.json", "every value above 0 of these masks is a defect")
        known.append(root / "defects_config.json")
    finding.ignore_others(root, known, "not part of this layout")
    names = {kind.name for kind in kinds if _word(kind.name) not in _GOOD}
    return finding.dataset("loco" if any(several) else "textures" if names == {"defective"} else "mvtec")


def _add_kind(finding: Finding, folder: Path, truth: Path | None) -> bool:
    """Add the images of test/<kind>. Returns whether one of them has several masks."""
    own = _truth_folder(truth, folder)
    if _word(folder.name) not in _GOOD:
        return _add_bad(finding, folder, own, folder.name)
    finding.add_good(folder, "test")
    if own is not None:
        images, drawings = finding.files(own)
        for mask in (*images, *drawings):
            finding.ignore(mask, "a mask of a good image")
    return False


def _truth_folder(truth: Path | None, kind: Path) -> Path | None:
    return None if truth is None else _only(truth, {_word(kind.name)})


def _good_and_bad(root: Path, place: Path) -> Dataset:
    """place: the root, or its folder of images, which holds the folders of good and of bad ones."""
    good, bad, masks = _only(place, _GOOD), _folders(place, _BAD), _only(root, _MASKS)
    assert good is not None, "the caller has seen it"
    used = [good, *bad, *([masks] if masks else [])]
    doubtful = [folder.name for folder in _folders(place) if folder not in used]
    if doubtful and not bad:
        raise InputError(
            f"{root} has a folder {good.name} and a folder {doubtful[0]}, which is neither good nor bad by its name; "
            f"{_ADVICE}"
        )
    finding = Finding(root)
    finding.add_good(good, "train")
    _some_good(finding, good)
    for folder in dict.fromkeys((root, place)):
        finding.ignore_others(folder, [*used, place], "not part of this layout")
    for folder in bad:
        images, own = _only(folder, _IMAGES), _only(folder, _MASKS)
        if masks is not None and own is None:
            own = _truth_folder(masks, folder) or (masks if len(bad) == 1 else None)
        if images is None:
            _add_bad(finding, folder, own)
        else:
            _add_bad(finding, images, own, folder.name.casefold())
            finding.ignore_others(folder, [images, *([own] if own else [])], "not part of this layout")
    if masks is not None and not bad:
        finding.ignore(masks, "masks without images")
    nanotwice = good.name == "Normal" and [folder.name for folder in bad] == ["Anomalous"]
    return finding.dataset("nanotwice" if nanotwice else "folders")


def _some_good(finding: Finding, folder: Path) -> None:
    if not finding.samples:
        raise InputError(f"no image in {folder}; images end in {', '.join(IMAGE_SUFFIXES)}")


# ---------------------------------------------------------------------------------------------------------------- masks


def _add_bad(finding: Finding, folder: Path, truth: Path | None, kind: str | None = None) -> bool:
    """Add the defective images below a folder with their masks. Returns whether one of them has several.

    Args:
        truth: the folder of their masks, or None. kind: of the defects; None: by the folder that an image lies in.
    """
    images, beside = finding.files(folder)
    if truth is not None and truth.is_relative_to(folder):
        images, beside = ([file for file in files if not file.is_relative_to(truth)] for files in (images, beside))
    masks = [file for files in finding.files(truth) for file in files] if truth else _masks_beside(images)
    drawn, drawings, place = set(masks), set(beside), truth or folder
    images = [image for image in images if image not in drawn]
    found = _pairs([image.relative_to(folder) for image in images], [mask.relative_to(place) for mask in masks])
    used: set[Path] = set()
    for image in images:
        relative = image.relative_to(folder)
        own = tuple(place / mask for mask in found[relative])
        if not own and image.with_suffix(".json") in drawings:
            own = (image.with_suffix(".json"),)
        used.update(own)
        named = kind or (relative.parts[0] if len(relative.parts) > 1 else folder.name.casefold())
        finding.samples.append(Sample(image, "test", "defective", named, masks=own))
    stems = {image.with_suffix("") for image in images}
    for file in (*masks, *beside):
        if file not in used:
            finding.ignore(file, _unused(file, file in drawings, stems, place, folder))
    return any(len(own) > 1 for own in found.values())


def _masks_beside(images: Sequence[Path]) -> list[Path]:
    """Those images that have the name of another one and an ending of masks."""
    names = {image.with_suffix("").as_posix().casefold() for image in images}
    return [image for image in images if _masked(image.with_suffix("").as_posix().casefold()) & names]


def _masked(name: str) -> set[str]:
    """The images that a mask of this name may belong to, by the endings that masks have."""
    return {name.removesuffix(ending) for ending in _ENDINGS if ending and name.endswith(ending)}


def _unused(file: Path, beside: bool, stems: set[Path], truth: Path, folder: Path) -> str:
    """Why a mask or a JSON file has no part."""
    if beside:
        return "another mask of the same image" if file.with_suffix("") in stems else "not an image"
    place = folder / file.relative_to(truth).with_suffix("")
    names = {place.with_name(place.name.removesuffix(ending)) for ending in _ENDINGS}
    return "another mask of the same image" if names & stems else "a mask without an image"


def _key(path: Path) -> tuple[str, ...]:
    """A path in parts, whatever its letter case and its suffix."""
    return tuple(part.casefold() for part in (*path.parent.parts, path.stem))


def _pairs(images: Sequence[Path], masks: Iterable[Path]) -> dict[Path, tuple[Path, ...]]:
    """The masks of each image; all paths are relative to the folder of their kind.

    A mask lies in the image's folder and has its name and one of the endings; or a folder of the image's name holds all
    of its masks. So an image in one folder never gets the mask of an image of the same name in another.
    """
    named: dict[tuple[str, ...], Path] = {}
    within: dict[tuple[str, ...], list[Path]] = {}
    for mask in masks:
        key = _key(mask)
        named.setdefault(key, mask)
        within.setdefault(key[:-1], []).append(mask)
    found: dict[Path, tuple[Path, ...]] = {}
    taken: set[Path] = set()
    for image in images:
        key = _key(image)
        own = [named.get((*key[:-1], key[-1] + ending)) for ending in _ENDINGS]
        first = next((path for path in own if path is not None and path not in taken), None)
        found[image] = tuple(within.get(key, ())) if first is None else (first,)
        taken.update(found[image])
    return found


# ---------------------------------------------------------------------------------------------------------- annotations


def _coco_files(root: Path) -> list[Path]:
    """COCO's annotations directly in a folder, in its folder of annotations, or in folders of images."""
    places = [root, *_folders(root)]
    files = (file for place in places for file in sorted(place.glob("*.json"), key=natural_key) if file.is_file())
    return [file for file in files if not file.name.startswith(".") and looks_like_coco(file)]


def _coco(root: Path, files: Sequence[Path]) -> Dataset:
    """Images with annotations are defective, those without are good."""
    finding = Finding(root)
    images, others = finding.files(root)
    by_name: dict[str, list[Path]] = {}
    for image in images:
        by_name.setdefault(image.name, []).append(image)
    seen: set[Path] = set()
    for file in files:
        for drawing in read_coco(file):
            path = _named_by(drawing.file, file, root, by_name)
            if path is None:
                finding.ignore(file.parent / drawing.file, f"named in {file.name}, but not there")
            elif path not in seen:
                seen.add(path)
                good = Sample(path, _split_of(file.parent), "good", "good")
                bad = Sample(path, "test", "defective", drawing.kind, drawing=drawing)
                finding.samples.append(bad if drawing.shapes else good)
    for path in images:
        if path not in seen:
            finding.ignore(path, "not named in the annotations")
    for path in others:
        if path not in files:
            finding.ignore(path, "not an image")
    if not any(sample.label == "good" and sample.split == "train" for sample in finding.samples):
        raise InputError(
            f"{files[0]} names no image without annotations that could be trained on; images without annotations are "
            "taken as good"
        )
    return finding.dataset("coco")


def _named_by(name: str, file: Path, root: Path, by_name: Mapping[str, list[Path]]) -> Path | None:
    """The image that annotations name: by its path from them or from the root, or else the only one of its name."""
    namesakes = by_name.get(Path(name).name, [])
    places = [place / name for place in (file.parent, root, root / "images")]
    places += namesakes if len(namesakes) == 1 else []
    return next((place for place in places if place.is_file()), None)


def _split_of(folder: Path) -> SplitName:
    """The split that a folder's name says, train where it says none."""
    name = _word(folder.name)
    return "test" if name in _TEST else "validation" if name in _VALIDATION else "train"


def _one_folder(root: Path) -> Dataset:
    """A folder of good images; with labelme's JSON beside them, those that have shapes are defective."""
    _refuse_doubtful(root)
    finding = Finding(root)
    images, files = finding.files(root)
    drawings = {file.with_suffix(""): (file, read_labelme(file)) for file in files if looks_like_labelme(file)}
    for image in images:
        drawn = drawings.pop(image.with_suffix(""), None)
        if drawn is None or not drawn[1].shapes:
            finding.samples.append(Sample(image, "train", "good", "good"))
        else:
            finding.samples.append(Sample(image, "test", "defective", drawn[1].kind, masks=(drawn[0],)))
    left = {file for file, _ in drawings.values()}
    stems = {image.with_suffix("") for image in images}
    for file in files:
        if file in left or file.with_suffix("") not in stems:
            finding.ignore(file, "annotations without an image" if file in left else "not an image")
    if not finding.samples:
        some = first_few(path.relative_to(root) for path, _ in finding.ignored)
        found = f", only {some}" if some else ""
        raise InputError(f"no image in the folder {root}{found}; images end in {', '.join(IMAGE_SUFFIXES)}")
    if not any(sample.label == "good" for sample in finding.samples):
        raise InputError(f"all images in {root} have annotations of labelme; images without shapes are taken as good")
    labelled = any(sample.label == "defective" for sample in finding.samples)
    return finding.dataset("labelme" if labelled else "plain")


def _refuse_part(root: Path) -> None:
    """Refuse the folder of a data set that holds its test images or masks."""
    for above in root.resolve().parents[:2]:
        if (above / "train" / "good").is_dir() and _word(root.resolve().relative_to(above).parts[0]) not in _TRAIN:
            raise InputError(f"{root} is a part of the data set {above}; name that, or its train/good")


def _refuse_doubtful(root: Path) -> None:
    """Refuse a folder whose images cannot all be good."""
    whole = [
        f.name for f in _folders(root) if _folders(f, _GOOD) or any(_folders(t, _GOOD) for t in _folders(f, _TRAIN))
    ]
    if whole:
        raise InputError(f"{root} holds data sets of their own ({', '.join(whole[:5])}); name one of them")
    doubtful = _folders(root, _BAD | _MASKS)
    if doubtful:
        raise InputError(
            f"{root} has a folder {doubtful[0].name}, but all images of a plain folder are taken as good; name the "
            f"folder of good images alone, or {_ADVICE}"
        )
    masks = _masks_beside(sorted(file for file in files_below(root) if is_image(file)))
    if masks:
        raise InputError(
            f"{root} has masks beside images ({masks[0].name}), but all images of a plain folder are taken as "
            f"good; {_ADVICE}"
        )
