"""Settings from TOML files, dictionaries and single changes, and errors that name the nearest known setting."""

from __future__ import annotations

import difflib
import json
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from flawmap.core.errors import ConfigError
from flawmap.core.settings import RESIDUAL_OF, Config


def parse(data: dict[str, Any]) -> Config:
    """A Config from plain data (parsed TOML or JSON). Raises ConfigError naming the key and the nearest known one."""
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


def read_config(path: Path, base: Config) -> Config:
    """`base` with the settings of a TOML file laid over it."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"no configuration file {path}; `flawmap train --show-config` prints one to start from"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    try:
        return override(base, data)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def override(base: Config, changes: dict[str, Any]) -> Config:
    """`base` with nested changes laid over it, checked as a whole.

    Of steps, epochs and minutes a change of one replaces the others; an epoch count needs a pool, given or kept. A
    change of the loss's name changes the residual's too, unless that is named.
    """
    data = base.model_dump()
    loss = changes.get("loss", {})
    if isinstance(loss, dict) and "name" in loss:
        data["residual"]["name"] = RESIDUAL_OF.get(loss["name"], loss["name"])
    budget = ("steps", "epochs", "minutes")
    training = changes.get("training", {})
    if isinstance(training, dict) and any(training.get(name) is not None for name in budget):
        data["training"].update(dict.fromkeys(budget))
    return parse(_merged(data, changes))


def to_toml(config: Config) -> str:
    """The configuration as TOML that `read_config` accepts; unset values are left out."""
    lines: list[str] = []
    _write_table(config.model_dump(mode="json", exclude_none=True), "", lines)
    return "\n".join(lines).strip() + "\n"


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _write_table(table: dict[str, Any], prefix: str, lines: list[str]) -> None:
    plain = {key: value for key, value in table.items() if not isinstance(value, dict)}
    if plain and prefix:
        lines.append(f"\n[{prefix}]")
    lines.extend(f"{key} = {_toml_value(value)}" for key, value in plain.items())
    for key, value in table.items():
        if isinstance(value, dict):
            _write_table(value, f"{prefix}.{key}" if prefix else key, lines)


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # JSON's escapes are TOML's, but this
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    return repr(value)


def _explain(error: ValidationError) -> str:
    """The first few problems of a validation, a sentence each."""
    sentences: list[str] = []
    known = _known_paths(Config)
    keys = {path.rpartition(".")[2] for path in known}
    for problem in error.errors()[:3]:
        where = ".".join(str(part) for part in problem["loc"] if part in keys)
        if problem["type"] == "extra_forbidden":
            path = ".".join(str(part) for part in problem["loc"])
            near = _nearest(path, known)
            sentences.append(f"unknown setting {path}" + (f"; did you mean {near}?" if near else ""))
        else:
            message = problem["msg"].removeprefix("Value error, ")
            own = problem["type"] == "value_error"
            sentences.append(f"{where}: {message}" if where else message)
            if not own:
                sentences[-1] += f", got {problem['input']!r}"
    return "; ".join(dict.fromkeys(sentences))


def _nearest(path: str, known: list[str]) -> str | None:
    """The known setting whose name is closest to that of `path`: one beside it before one elsewhere."""
    section, _, name = path.rpartition(".")
    beside = [other for other in known if other.rpartition(".")[0] == section]
    for candidates in (beside, known):
        names = {other.rpartition(".")[2]: other for other in reversed(candidates)}
        near = difflib.get_close_matches(name, sorted(names), n=1)
        if near:
            return names[near[0]]
    return None


def _known_paths(settings: type[BaseModel], prefix: str = "") -> list[str]:
    """Every setting and section below a section: training, training.steps, ..."""
    paths: list[str] = []
    for key, info in settings.model_fields.items():
        paths.append(prefix + key)
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            paths += _known_paths(info.annotation, f"{prefix}{key}.")
    return paths
