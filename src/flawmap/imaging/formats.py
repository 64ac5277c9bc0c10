"""Which formats are read: known by a file's first bytes, and in folders by its suffix."""

from __future__ import annotations

from pathlib import Path

from flawmap.core.errors import InputError

IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".webp", ".jp2", ".j2k", ".pgm", ".ppm", ".pnm")

_FOREIGN_SUFFIXES = frozenset(
    """
    3fr apng arw avif cr2 cr3 cur dcm dds dib dng emf eps exr fit fits gif hdr heic heif ico j2c jfif jpc jpe jpf jpm
    jpx jxl jxr nef orf pam pbm pcx pdf pfm psd qoi raw rw2 svg tga wmf xbm
    """.split()  # noqa: SIM905 - a list of them takes fifty lines
)

READ = "PNG, TIFF, JPEG, BMP, WebP, JPEG 2000, PGM or PPM"

# Format, place of the signature, signatures.
_SIGNATURES = (
    ("PNG", 0, (b"\x89PNG\r\n\x1a\n",)),
    ("JPEG", 0, (b"\xff\xd8\xff",)),
    ("BMP", 0, (b"BM",)),
    ("TIFF", 0, (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    ("WebP", 8, (b"WEBP",)),
    ("JPEG 2000", 0, (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")),
    ("PGM", 0, (b"P2", b"P5")),
    ("PPM", 0, (b"P3", b"P6")),
)
_FOREIGN = (
    ("GIF", 0, (b"GIF8",)),
    ("PDF", 0, (b"%PDF",)),
    ("AVIF", 4, (b"ftypavi",)),
    ("HEIC", 4, (b"ftyphe", b"ftypmif1", b"ftypmsf1")),
    ("JPEG XL", 0, (b"\xff\x0a", b"\0\0\0\x0cJXL ")),
    ("JPEG XR", 0, (b"II\xbc",)),
    ("Photoshop", 0, (b"8BPS",)),
    ("OpenEXR", 0, (b"v/1\x01",)),
    ("Radiance HDR", 0, (b"#?",)),
    ("QOI", 0, (b"qoif",)),
    ("FITS", 0, (b"SIMPLE",)),
    ("DDS", 0, (b"DDS ",)),
    ("PBM", 0, (b"P1", b"P4")),
    ("PAM", 0, (b"P7",)),
    ("PFM", 0, (b"PF", b"Pf")),
)


def format_of(path: Path, start: bytes) -> str:
    """The format that a file's first 16 bytes show, whatever its name says. InputError if it is not read."""
    if not start:
        raise InputError(f"{path} is empty (0 bytes)")
    if name := _known(start, _SIGNATURES):
        return name
    if name := _known(start, _FOREIGN):
        raise InputError(f"{path} is {name}, a format that flawmap does not read; convert it to {READ}")
    raise InputError(f"{path} is no known image, whatever its name says; convert it to {READ}")


def _known(start: bytes, signatures: tuple[tuple[str, int, tuple[bytes, ...]], ...]) -> str | None:
    return next((name for name, place, marks in signatures if start[place:].startswith(marks)), None)


def is_image(path: Path) -> bool:
    """Whether the name says so; reading looks at the content."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def why_ignored(path: Path) -> str:
    """Why a file that `is_image` denies is none, by its suffix."""
    return "a format that flawmap does not read" if path.suffix.lower()[1:] in _FOREIGN_SUFFIXES else "not an image"
