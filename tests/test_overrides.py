"""Changes of settings: another method, single assignments, and any data at all."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flawmap.core.errors import ConfigError
from flawmap.methods.config import Config
from flawmap.methods.overrides import assigned, flat, known_settings, override, parse, read_config, to_toml
from flawmap.methods.presets import preset
from flawmap.methods.settings import FeatureMatchingSettings, L2Settings, StructuralSettings, VariationalSettings
from flawmap.methods.table import METHODS

RESIDUAL_KEPT = """
[residual]
name = "contrast"
"""


def refused(base: Config, changes: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        override(base, changes)
    return str(caught.value)


# --- another method


def test_another_method_keeps_what_both_have_and_drops_the_rest() -> None:
    """The latent dimensions stay; the KL weight has no meaning for a method without a divergence."""
    base = parse({"method": {"name": "vae", "latent": 33, "kl_weight": 0.25}})
    assert override(base, {"method": {"name": "l2"}}).method == L2Settings(latent=33)
    assert override(base, {"method": {"name": "ssim"}}).method == StructuralSettings(latent=33)
    assert override(base, {"method": {"name": "fm", "latent": 9}}).method == FeatureMatchingSettings(latent=9)
    assert override(base, {"method": {"name": "vae"}}).method == VariationalSettings(latent=33, kl_weight=0.25)


@pytest.mark.parametrize("name", METHODS)
def test_another_method_changes_no_other_section(name: str) -> None:
    """Only `method` differs afterwards, and there and back is the same where nothing was dropped."""
    base = preset("fast", "l2")
    changed = override(base, {"method": {"name": name}})
    assert changed.method.name == name
    assert changed.model_copy(update={"method": base.method}) == base
    assert override(changed, {"method": {"name": "l2"}}) == base


@pytest.mark.parametrize(
    ("name", "key", "owner"),
    [
        ("l2", "ssim", "ssim"),
        ("ssim", "kl_weight", "vae"),
        ("vae", "features", "fm or cnn-dictionary"),
        ("l2", "feature_weight", "fm"),
    ],
)
def test_a_setting_of_another_method_is_refused_and_its_owner_named(name: str, key: str, owner: str) -> None:
    """Whether the method was there before or comes with it."""
    message = f"unknown setting method.{key}; it belongs to the method {owner}"
    value = METHODS[owner.partition(" ")[0]].settings().model_dump()[key]
    assert refused(preset("fast", name), {"method": {key: value}}) == message
    assert refused(preset("fast", owner.partition(" ")[0]), {"method": {"name": name, key: value}}) == message


def test_a_residual_of_a_file_outlives_a_change_of_method(tmp_path: Path) -> None:
    """Whatever comes later says nothing of the residual, so it stays; one that the new method lacks is refused."""
    path = tmp_path / "flawmap.toml"
    path.write_text(RESIDUAL_KEPT)
    base = read_config(path, preset("fast", "l2"))
    for name, row in METHODS.items():
        if "contrast" in row.settings.residuals:
            assert override(base, {"method": {"name": name}}).mapped.name == "contrast"
    sampled = override(preset("fast", "vae"), {"residual": {"name": "probability"}})
    assert refused(sampled, {"method": {"name": "l2"}}).startswith(
        "residual probability needs a network that samples, method vae, got method l2;"
    )


@pytest.mark.parametrize("name", ["mse", "", 5, None, [1], {}])
def test_a_method_that_does_not_exist_is_refused(name: Any) -> None:
    """Whatever stands in place of its name."""
    message = f"method.name must be one of {', '.join(METHODS)}, got {name!r}"
    assert refused(Config(), {"method": {"name": name}}) == message
    with pytest.raises(ConfigError) as caught:
        parse({"method": {"name": name}})
    assert str(caught.value) == message


# --- single assignments


@pytest.mark.parametrize(
    ("text", "change"),
    [
        ("training.batch=64", {"training": {"batch": 64}}),
        ("training.learning_rate=2e-3", {"training": {"learning_rate": 0.002}}),
        ("tiling.pad=true", {"tiling": {"pad": True}}),
        ("method.name=l2", {"method": {"name": "l2"}}),
        ('method.name="l2"', {"method": {"name": "l2"}}),
        (" tiling.weights = hann ", {"tiling": {"weights": "hann"}}),
        ("residual.ssim.size=7", {"residual": {"ssim": {"size": 7}}}),
        ("images.roi.box=[0, 0, 64, 64]", {"images": {"roi": {"box": [0, 0, 64, 64]}}}),
        ("images.roi.masks=a=b", {"images": {"roi": {"masks": "a=b"}}}),
        ("images.roi.masks=2026-05-01", {"images": {"roi": {"masks": "2026-05-01"}}}),
        ("images.roi.masks=1\nmode=2", {"images": {"roi": {"masks": "1\nmode=2"}}}),
        ("images.roi.masks=", {"images": {"roi": {"masks": ""}}}),
    ],
)
def test_an_assignment_is_one_change(text: str, change: dict[str, Any]) -> None:
    """The value is TOML's number, truth value, text or list; anything else is a word, as it stands."""
    assert assigned(text) == change


@pytest.mark.parametrize("text", ["", "=", "batch=64", "training.batch", ".batch=1", "training.=1", "a..b=1", "=1"])
def test_what_is_no_assignment_is_refused(text: str) -> None:
    """A section and a key are needed, and an equals sign."""
    with pytest.raises(ConfigError) as caught:
        assigned(text)
    assert str(caught.value) == f"a setting is given as section.key=value such as training.batch=64, got {text}"


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_can_be_assigned(name: str) -> None:
    """An assignment may say what every setting is already, and nothing changes."""
    base = preset("paper", name)
    values = flat(base.model_dump(mode="json", exclude_none=True))
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    assert {line.partition(" = ")[0] for line in lines} <= set(known_settings(name))
    for line in lines:
        assert override(base, assigned(line)) == base, line
    assert tomllib.loads(to_toml(base))


# --- anything


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.sampled_from([*METHODS])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
)


@given(path=st.sampled_from(sorted({path for name in METHODS for path in known_settings(name)})), value=VALUES)
@settings(max_examples=300, deadline=None)
def test_any_value_of_any_setting_is_taken_or_refused(path: str, value: Any) -> None:
    """A Config that survives TOML, or a ConfigError: nothing else comes of wrong settings."""
    change = value
    for key in reversed(path.split(".")):
        change = {key: change}
    try:
        config = override(Config(), change)
    except ConfigError:
        return
    assert parse(tomllib.loads(to_toml(config))) == config
