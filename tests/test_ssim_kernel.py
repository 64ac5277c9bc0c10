"""The compiled mean of SSIM: double precision and pytorch-msssim as oracles, laws to the last bit, who takes it."""

from __future__ import annotations

import logging
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from flawmap.core.settings import SSIMSettings
from flawmap.nets import ssim as module
from flawmap.nets.ssim import constants, mean_ssim, window_weights

kernel = pytest.importorskip("flawmap.nets.ssim_kernel", reason="numba, of the extra kernels, is not installed")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what the package warns of at import is not ours
    import pytorch_msssim

Border = Literal["valid", "reflect"]
GAUSSIAN = SSIMSettings(window="gaussian", constants="wang")
UNIFORM = SSIMSettings(size=3)


def textures(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(M, H, W) twice, that are alike but not the same."""
    generator = torch.Generator().manual_seed(seed)
    p, noise = torch.rand(shape, generator=generator), torch.rand(shape, generator=generator)
    return p, (0.2 + 0.6 * p + 0.2 * noise).clamp(0, 1)


def compiled(
    p: Tensor, q: Tensor, settings: SSIMSettings, border: Border = "reflect", *, threads: int = 1
) -> tuple[float, NDArray[np.float32]]:
    found: tuple[float, NDArray[np.float32]] = kernel.mean_and_gradient(
        p.numpy(),
        q.numpy(),
        tuple(window_weights(settings).tolist()),
        constants(settings),
        reflect=border == "reflect",
        differentiated=True,
        threads=threads,
    )
    return found


@pytest.mark.parametrize("border", ["valid", "reflect"])
@pytest.mark.parametrize("settings", [UNIFORM, GAUSSIAN])
@pytest.mark.parametrize(
    "sides", [(11, 12), (40, 33), (127, 128), (128, 129), (129, 257), (133, 139), (256, 130), (300, 12), (11, 400)]
)
def test_value_and_gradient_are_those_of_double_precision(
    sides: tuple[int, int], settings: SSIMSettings, border: Border
) -> None:
    """Of both images, where tiles begin and end, at borders and where a tile is a few pixels wide."""
    p, q = textures(2, *sides)
    exact = [image[None].double().requires_grad_() for image in (p, q)]
    expected = mean_ssim(*exact, settings, border)
    for first, last, gradient in zip((q, p), (p, q), torch.autograd.grad(expected, exact), strict=True):
        found, slopes = compiled(first, last, settings, border)
        assert found == pytest.approx(expected.item(), abs=1e-6)
        np.testing.assert_allclose(slopes, gradient[0].numpy(), rtol=0, atol=4e-6 * float(gradient.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize("border", ["valid", "reflect"])
def test_the_largest_window_fits_into_a_tile(border: Border) -> None:
    """Its rows end before the next one's begin."""
    settings = SSIMSettings(window="gaussian", size=kernel.LARGEST, sigma=6)
    p, q = textures(1, 300, 300)
    exact = q[None].double().requires_grad_()
    expected = mean_ssim(p[None].double(), exact, settings, border)
    (gradient,) = torch.autograd.grad(expected, exact)
    found, slopes = compiled(p, q, settings, border)
    assert found == pytest.approx(expected.item(), abs=1e-6)
    np.testing.assert_allclose(slopes, gradient[0].numpy(), rtol=0, atol=4e-6 * float(gradient.abs().max()))


@pytest.mark.parametrize("channels", [1, 3])
def test_pytorch_msssim_agrees(channels: int) -> None:
    """The mean over valid windows and its gradient, through autograd and for images that are channels last."""
    p, q = (image.view(2, channels, 64, 70) for image in textures(2 * channels, 64, 70))
    placed = q.to(memory_format=torch.channels_last).requires_grad_()
    plain = q.clone().requires_grad_()
    ours = mean_ssim(p, placed, GAUSSIAN, "valid")
    theirs = pytorch_msssim.ssim(p, plain, data_range=1)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    (found,), (expected,) = torch.autograd.grad(ours, placed), torch.autograd.grad(theirs, plain)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("border", ["valid", "reflect"])
def test_equal_planes_are_exactly_alike(border: Border) -> None:
    """1, and no gradient at all, to the last bit."""
    p, _ = textures(3, 140, 131)
    found, gradient = compiled(p, p.clone(), GAUSSIAN, border)
    assert found == 1
    assert not gradient.any()


def test_exchanged_planes_give_the_same() -> None:
    """The same bits."""
    p, q = textures(2, 140, 131)
    assert compiled(p, q, GAUSSIAN)[0] == compiled(q, p, GAUSSIAN)[0]


def test_planes_do_not_meet() -> None:
    """A plane's gradient, times the number of planes, is the same bits whatever the other planes are."""
    p, q = textures(4, 60, 131)
    together = compiled(p, q, GAUSSIAN)[1]
    alone = [compiled(p[place : place + 1], q[place : place + 1], GAUSSIAN)[1][0] for place in range(4)]
    assert np.array_equal(4 * together, np.stack(alone))


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_the_number_of_threads_changes_nothing(threads: int) -> None:
    """More than there are tiles included."""
    p, q = textures(2, 140, 131)
    found, gradient = compiled(p, q, GAUSSIAN, threads=threads)
    expected, slopes = compiled(p, q, GAUSSIAN)
    assert found == expected
    assert np.array_equal(gradient, slopes)


def test_callers_side_by_side_do_not_meet() -> None:
    """Several threads, each with threads of its own, get what one gets."""
    pairs = [textures(2, 140, 131, seed=seed) for seed in range(6)]
    expected = [compiled(*pair, GAUSSIAN) for pair in pairs]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda pair: compiled(*pair, GAUSSIAN, threads=2), pairs))
    for one, other in zip(found, expected, strict=True):
        assert one[0] == other[0]
        assert np.array_equal(one[1], other[1])


@pytest.mark.parametrize("levels", [(0.999, 0.999), (0.999, 0.05)])
def test_faint_texture_on_a_bright_ground_keeps_its_digits(levels: tuple[float, float]) -> None:
    """E[x^2] - E[x]^2 would cancel: noise of 1e-4 still equals double precision."""
    p, q = (level + 1e-4 * image for level, image in zip(levels, textures(1, 64, 64), strict=True))
    expected = mean_ssim(p[None].double(), q[None].double(), GAUSSIAN)
    assert compiled(p, q, GAUSSIAN)[0] == pytest.approx(expected.item(), abs=1e-6)


def test_what_is_no_number_is_not_hidden() -> None:
    """One NaN makes the mean NaN, so a training stops."""
    p, q = textures(2, 40, 40)
    q[1, 20, 20] = torch.nan
    assert np.isnan(compiled(p, q, GAUSSIAN)[0])


def test_who_takes_the_compiled_form() -> None:
    """float32 on a CPU, with a window that is not larger than it knows."""
    p = torch.zeros(1, 16, 16)
    assert module.kernel_for(p, GAUSSIAN) is kernel
    assert module.kernel_for(p.double(), GAUSSIAN) is None
    assert module.kernel_for(p.to("meta"), GAUSSIAN) is None
    assert module.kernel_for(p, SSIMSettings(size=kernel.LARGEST + 2)) is None


@pytest.mark.parametrize("wanted", [(True, False), (False, True), (True, True), (False, False)])
def test_both_forms_agree(wanted: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """With numba and without: the same value and gradients, up to rounding, by whichever images they are wanted."""
    images = [
        image.view(2, 2, 60, 70).requires_grad_(needed)
        for image, needed in zip(textures(4, 60, 70), wanted, strict=True)
    ]
    found = mean_ssim(*images, GAUSSIAN)
    monkeypatch.setattr(module, "_kernel", lambda: None)
    expected = mean_ssim(*images, GAUSSIAN)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert found.requires_grad == any(wanted)
    asked = [image for image in images if image.requires_grad]
    if asked:
        pairs = zip(torch.autograd.grad(3 * found, asked), torch.autograd.grad(3 * expected, asked), strict=True)
        for one, other in pairs:
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * float(other.abs().max()))


def test_where_nothing_can_be_kept_it_is_compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that cannot be written is no error."""

    def refused(cache: bool = False, **options: Any) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: (function, options)

    monkeypatch.setattr(kernel, "njit", refused)
    function, options = kernel._compiled(abs)
    assert function is abs
    assert options["nogil"]


def test_a_numba_that_cannot_be_used_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As with a NumPy that it does not know yet: SSIM goes on without. Where it is not installed nothing is said."""

    class Refusing:
        def __init__(self, error: ImportError) -> None:
            self.error = error

        def find_spec(self, name: str, *_: Any) -> None:
            if name == "flawmap.nets.ssim_kernel":
                raise self.error

    monkeypatch.delattr("flawmap.nets.ssim_kernel")
    monkeypatch.delitem(sys.modules, "flawmap.nets.ssim_kernel")
    for error, told in ((ImportError("Numba needs NumPy 2.5 or less."), 1), (ModuleNotFoundError("numba"), 0)):
        monkeypatch.setattr(sys, "meta_path", [Refusing(error), *sys.meta_path])
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert module._kernel.__wrapped__() is None
        assert len(caplog.messages) == told
    assert caplog.messages == []
