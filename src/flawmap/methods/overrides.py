"""Settings from TOML files, dictionaries and single changes, and errors that name the nearest known setting."""

from __future__ import annotations

import datetime
import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel, ValidationError

from flawmap.core.errors import ConfigError
from flawmap.methods.config import USUAL, Config, method_type
from flawmap.methods.table import METHODS

BUDGET = ("steps", "epochs", "minutes")
TOLD = 3  # problems in one message


def parse(data: dict[str, Any]) -> Config:
    """A Config from plain data (parsed TOML or JSON). Raises ConfigError naming the key and the nearest known one."""
    if not isinstance(data, dict):
        raise ConfigError(f"settings must be a table of sections, got {data!r}")
    name = _name_of(data.get("method"), USUAL)
    method_type(name)
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError("; ".join(list(dict.fromkeys(_sentences(error, name)))[:TOLD])) from None


def read_changes(path: Path) -> dict[str, Any]:
    """The settings of a TOML file, as `override` takes them."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"no configuration file {path}; `flawmap train --show-config` prints one to start from"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None


def read_config(path: Path, base: Config) -> Config:
    """`base` with the settings of a TOML file laid over it."""
    changes = read_changes(path)
    try:
        return override(base, changes)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def override(base: Config, changes: dict[str, Any]) -> Config:
    """`base` with nested changes laid over it, checked as a whole.

    One of steps, epochs and minutes replaces the others; an epoch count needs a pool, given or kept. Another method
    keeps the settings that it shares with the one before.
    """
    data = base.model_dump()
    name = _name_of(changes.get("method"), base.method.name)
    if name != base.method.name and isinstance(name, str) and name in METHODS:
        shared = METHODS[name].settings.model_fields
        data["method"] = {key: value for key, value in data["method"].items() if key in shared}
    training = changes.get("training", {})
    if isinstance(training, dict) and any(training.get(name) is not None for name in BUDGET):
        data["training"].update(dict.fromkeys(BUDGET))
    return parse(_merged(data, changes))


def without_set(config: Config, changes: Sequence[dict[str, Any]]) -> Config:
    """The configuration without what would be tried though it changes a setting of these changes: what is set is not
    tried. Changes that name candidates, or quicker ways to score, themselves take none of these away.

    >>> wide = parse({"choice": {"candidates": ["method.latent=8", "method.name=l2"]}})
    >>> without_set(wide, [{"method": {"name": "ssim"}}]).choice.candidates
    ('method.latent=8',)
    """
    named = [flat(change) for change in changes]

    def kept(name: str) -> list[str]:
        given = {key for settings in named if f"choice.{name}" not in settings for key in settings}
        return [text for text in getattr(config.choice, name) if not given & flat(all_assigned(text.split())).keys()]

    return override(config, {"choice": {name: kept(name) for name in ("candidates", "quicker")}})


def changed_by(config: Config, text: str) -> Config | None:
    """The settings with changes, `section.key=value ...`; None where they cannot be."""
    try:
        return override(config, all_assigned(text.split()))
    except ConfigError:  # such as a setting that the method does not have
        return None


def quicker_of(config: Config) -> dict[str, Config]:
    """Ways to score more quickly, with their whole configurations, in order; the settings themselves come last, as "".

    Left out are those that cannot be, that are not quicker, and strides beyond two thirds of a patch.
    """
    found: dict[str, Config] = {}
    for text in config.choice.quicker:
        changed = changed_by(config, text)
        if changed is not None and config.tiling.stride < changed.tiling.stride <= 2 * config.model.patch // 3:
            found[text] = changed
    return found | {"": config}


def paced(config: Config, *, fast: bool) -> Config:
    """The configuration without a choice of quicker ways to score: with the first of them that can be, or with none.

    >>> wide = parse({"choice": {"quicker": ["tiling.stride=64", "tiling.stride=44"]}})
    >>> [paced(wide, fast=fast).tiling.stride for fast in (True, False)]
    [64, 30]
    """
    chosen = next(iter(quicker_of(config).values())) if fast else config
    return override(chosen, {"choice": {"quicker": ()}})


def assigned(text: str) -> dict[str, Any]:
    """A change of one setting, `section.key=value`, as `override` takes it; the value is TOML, or else a word.

    >>> assigned("training.batch=64"), assigned("method.name=l2")
    ({'training': {'batch': 64}}, {'method': {'name': 'l2'}})
    """
    path, equals, value = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys) or len(keys) < 2:
        raise ConfigError(f"a setting is given as section.key=value such as training.batch=64, got {text}")
    change: Any = _value_of(value.strip())
    for key in reversed(keys):
        change = {key: change}
    return dict(change)


def all_assigned(texts: Iterable[str]) -> dict[str, Any]:
    """Changes of several settings in one, the last of a setting.

    >>> all_assigned(["residual.name=kl", "tiling.stride=16", "residual.smoothing=4"])
    {'residual': {'name': 'kl', 'smoothing': 4}, 'tiling': {'stride': 16}}
    """
    return reduce(_merged, map(assigned, texts), {})


def to_toml(config: Config) -> str:
    """The configuration as TOML that `read_config` accepts; unset values are left out."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings by their names.

    >>> flat({"training": {"batch": 64}, "method": {"ssim": {"size": 7}}})
    {'training.batch': 64, 'method.ssim.size': 7}
    """
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= {f"{key}.{name}": leaf for name, leaf in flat(value).items()}
        else:
            found[key] = value
    return found


def default_text(config: Config, path: str) -> str:
    """A setting's value as help shows it: "32" for training.batch, nothing for one that is unset."""
    value = flat(config.model_dump()).get(path)
    return "" if value is None else json.dumps(value) if isinstance(value, bool) else str(value)


def _value_of(text: str) -> Any:
    """TOML's value. A date is a word, as are several lines: no setting takes one, and a folder may be named so."""
    try:
        found = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    value = found["value"]
    return text if len(found) > 1 or isinstance(value, datetime.date | datetime.time) else value


def _name_of(method: Any, otherwise: str) -> Any:
    return method.get("name", otherwise) if isinstance(method, dict) else otherwise


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _sentences(error: ValidationError, method: str) -> list[str]:
    """The problems of a validation, a sentence each."""
    sentences: list[str] = []
    known = known_settings(method)
    keys = {key for path in known for key in path.split(".")}
    for problem in error.errors():
        parts = [str(part) for part in problem["loc"]]
        if problem["type"] == "extra_forbidden":
            path = ".".join(parts)
            owner, near = _owner(path, method), _nearest(path, known)
            sentences.append(f"unknown setting {path}" + (owner or (f"; did you mean {near}?" if near else "")))
            continue
        where = ".".join(part for part in parts if part in keys)
        message = problem["msg"].removeprefix("Value error, ")
        sentences.append(f"{where}: {message}" if where else message)
        if problem["type"] != "value_error":
            sentences[-1] += f", got {problem['input']!r}"
    return sentences


def _owner(path: str, method: str) -> str:
    """Which other methods have a setting that this one lacks."""
    section, key, *_ = *path.split("."), ""
    owners = [name for name, row in METHODS.items() if section == "method" and key in row.settings.model_fields]
    return f"; it belongs to the method {' or '.join(owners)}" if owners and method not in owners else ""


def _nearest(path: str, known: list[str]) -> str | None:
    """The known setting whose name is closest to that of `path`: beside it, in its section, or elsewhere."""
    section, _, name = path.rpartition(".")
    beside = [other for other in known if other.rpartition(".")[0] == section]
    below = [other for other in known if section and other.startswith(f"{section}.")]
    for candidates in (beside, below, known):
        names = {other.rpartition(".")[2]: other for other in reversed(candidates)}
        near = difflib.get_close_matches(name, sorted(names), n=1)
        if near:
            return names[near[0]]
    return None


def known_settings(method: str = USUAL) -> list[str]:
    """Every setting and section: training, training.steps, ...; of the method's own section as this method has it."""
    return [*_paths(Config, ""), *_paths(METHODS[method].settings, "method.")]


def _paths(settings: type[BaseModel], prefix: str) -> list[str]:
    paths: list[str] = []
    for key, info in settings.model_fields.items():
        paths.append(prefix + key)
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel) and key != "method":
            paths += _paths(info.annotation, f"{prefix}{key}.")
    return paths
