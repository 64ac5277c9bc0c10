"""FLEET.toml: the product types of a fleet, with their images and settings."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flawmap.cluster.jobs import Resources
from flawmap.core.errors import ConfigError
from flawmap.methods.config import USUAL, Config
from flawmap.methods.overrides import override, without_set
from flawmap.methods.presets import preset

NAME = re.compile(r"\w[\w-]{0,49}")
"""A type's name: it names files and what requests to the service ask for."""
PLACES = ("data", "good", "test", "inspect")


@dataclass(frozen=True)
class ProductType:
    """A type. data: what it is trained on. good: good images of today to calibrate on. test: a labelled set to be
    evaluated on. inspect: files, folders or patterns to inspect. Paths are absolute; None or (): not given."""

    name: str
    config: Config
    data: Path
    good: Path | None
    test: Path
    inspect: tuple[str, ...]


@dataclass(frozen=True)
class Fleet:
    """types: by name, in the file's order. resources: of each job."""

    types: dict[str, ProductType]
    resources: Resources


def read_fleet(file: Path) -> Fleet:
    """The fleet of a TOML file; paths in it are relative to its folder.

    Raises:
        ConfigError: the file is missing or no TOML, a name is no file name, or a key or a setting is wrong; the message
            names the type.
    """
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no fleet file {file}; docs/scale.md shows one") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not TOML: {error}") from None
    try:
        _known(tables, ("types", "defaults", "resources"))
        resources = _resources(_table(tables, "resources"))
        types = _table(tables, "types")
        if not types:
            raise ConfigError("it has no types; give each one a table [types.NAME] with the key data")
        _check_names(types)
        defaults = _table(tables, "defaults")
        _known(defaults, ("preset", *Config.model_fields))
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    found = {}
    for name in types:
        try:
            found[name] = _type(name, _table(types, name), defaults, file.absolute().parent)
        except ConfigError as error:
            raise ConfigError(f"{file}, type {name}: {error}") from None
    return Fleet(found, resources)


def _type(name: str, table: dict[str, Any], defaults: Mapping[str, Any], base: Path) -> ProductType:
    _known(table, (*PLACES, "preset", *Config.model_fields))
    if "data" not in table:
        raise ConfigError('it needs data, the folder of its good images or its data set, such as data = "cloth"')
    data, good, test = (_path(table, key, base) for key in ("data", "good", "test"))
    assert data is not None
    inspect = table.get("inspect", [])
    inspect = [inspect] if isinstance(inspect, str) else inspect
    if not isinstance(inspect, list) or not all(isinstance(one, str) for one in inspect):
        raise ConfigError(f"inspect must be a path or a list of paths, got {inspect!r}")
    config = _config(table, defaults, base)
    return ProductType(name, config, data, good, test or data, tuple(str(base / one) for one in inspect))


def _config(table: Mapping[str, Any], defaults: Mapping[str, Any], base: Path) -> Config:
    """The preset, then the defaults, then the type's own."""
    changes = [{key: one[key] for key in Config.model_fields if key in one} for one in (defaults, table)]
    methods = [one["method"].get("name") for one in changes if isinstance(one.get("method"), dict)]
    method = next((name for name in reversed(methods) if name), USUAL)
    config = preset(table.get("preset", defaults.get("preset", "auto")), method)
    for change in changes:
        config = override(config, change)
    return override(without_set(config, changes), _from(base, config.model_dump()))


def _from(base: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those settings that are paths, or hold some, with the paths made absolute."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Path):
            found[key] = base / value
        elif isinstance(value, dict) and (inner := _from(base, value)):
            found[key] = inner
    return found


def _resources(table: dict[str, Any]) -> Resources:
    _known(table, ("cpus", "gpus"))
    cpus, gpus = table.get("cpus", 1), table.get("gpus", 0)
    if type(cpus) is not int or cpus < 1:
        raise ConfigError(f"resources.cpus must be a whole number of at least 1, got {cpus!r}")
    if type(gpus) not in (int, float) or gpus < 0 or not (gpus <= 1 or float(gpus).is_integer()):
        raise ConfigError(f"resources.gpus must be a fraction of a GPU or a whole number, got {gpus!r}")
    return Resources(cpus, float(gpus))


def _check_names(names: Iterable[str]) -> None:
    """Names that are safe on every file system, of which some know no capitals."""
    seen: dict[str, str] = {}
    for name in names:
        if not NAME.fullmatch(name):
            raise ConfigError(f"a type's name has up to 50 letters, digits, _ and -, got {name!r}; it names files")
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise ConfigError(f"the types {other} and {name} differ in capitals alone, which not all file systems keep")


def _table(tables: Mapping[str, Any], key: str) -> dict[str, Any]:
    table = tables.get(key, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{key} must be a table, got {table!r}")
    return table


def _known(table: Mapping[str, Any], keys: Iterable[str]) -> None:
    known = list(keys)
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise ConfigError(f"unknown key {key}; " + (f"did you mean {near[0]}?" if near else f"one of {known}"))


def _path(table: Mapping[str, Any], key: str, base: Path) -> Path | None:
    value = table.get(key)
    if value is not None and not isinstance(value, str):
        raise ConfigError(f"{key} must be a path in quotes, got {value!r}")
    return None if value is None else base / value
