"""What the service answers: results, batches of them, and errors, as JSON."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from flawmap.core.documents import document, schema
from flawmap.core.errors import FlawmapError, OutputError
from flawmap.service.store import Result

PICTURES = ("mask.png", "overlay.png", "evidence.png", "evidence.tif", "map", "image.png")
"""What can be had of a result whose image and map are kept."""

SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
}
"""Headers of every answer: nothing from elsewhere is loaded, and no answer is taken for what it does not say it is."""


def error_answer(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """{"schema", "error": {"code", "message"}}: a word for programs and a sentence for people."""
    return JSONResponse(document("error", {"error": {"code": code, "message": message}}), status, headers=headers)


def status_of(error: FlawmapError) -> tuple[int, str]:
    """The status and the code of an error of ours."""
    return (507, "storage") if isinstance(error, OutputError) else (422, "image")


class ResultAnswer(BaseModel):
    """One inspection. Lengths and areas in pixels of the image, times in seconds."""

    schema_: str = Field(alias="schema", examples=[schema("result")])
    id: str = Field(examples=["019b0c2a77d16c2e9d4f0a81"])
    at: float = Field(description="seconds since 1970, UTC")
    name: str = Field(description="what the sender called the image", examples=["part-0815.png"])
    image_sha256: str
    model: str = Field(examples=["cloth"])
    model_sha256: str
    point: str = Field(description="the operating point that decided", examples=["default"])
    verdict: Literal["ok", "flawed"]
    score: float = Field(description="the map's largest value", examples=[6.41])
    threshold: float = Field(examples=[4.25])
    p_value: float | None = Field(description="how often a good image scores at least as high", examples=[0.02])
    width: int
    height: int
    flawed_pixels: int
    regions: list[dict[str, Any]] = Field(
        description="box (left, top, width, height), area, centroid, peak, mean, and the outline's points",
        examples=[[{"area": 210, "box": [40, 12, 21, 14], "centroid": [50.1, 18.9], "peak": 6.41, "mean": 4.9}]],
    )
    notes: list[str]
    timings: dict[str, float] = Field(examples=[{"queued": 0.001, "inspected": 0.31}])
    review: Literal["accept", "reject"] | None
    note: str | None
    reviewed_at: float | None
    bytes: int = Field(description="of the image and the map that are kept")
    links: dict[str, str] = Field(description="where mask, overlay, map and image are, if they are kept")


class Failure(BaseModel):
    """Why an image of a batch has no result."""

    name: str
    error: dict[str, str]


class BatchAnswer(BaseModel):
    """One entry for each image, in order."""

    schema_: str = Field(alias="schema", examples=[schema("batch")])
    results: list[ResultAnswer | Failure]


class ReviewBody(BaseModel):
    """What an operator says. review: None takes it back."""

    review: Literal["accept", "reject"] | None = None
    note: str | None = Field(None, max_length=2000)


def answer_of(result: Result) -> dict[str, Any]:
    """A result with its links."""
    place = f"/v1/results/{result.id}"
    links = {"self": place}
    if result.bytes:
        links |= {name: f"{place}/{name}" for name in PICTURES}
    return result.to_dict() | {"links": links}
