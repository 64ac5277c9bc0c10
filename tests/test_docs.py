"""What the documentation shows is so: commands and Python blocks run, options and settings exist, links lead somewhere.

Commands run in the order of the page, in one folder for each page, with small budgets and images in place of the
shown ones (`SMALLER`). What needs real images, a network or minutes is named in `ELSEWHERE` or begins with `make`.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import documented
from flawmap.commands.cli import main
from flawmap.commands.console import Output
from flawmap.core.documents import document, schema
from flawmap.methods import overrides, presets
from flawmap.methods.config import Config
from flawmap.methods.table import METHODS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "README.ja.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
# Pages whose commands and Python blocks make one walk.
RUN = ["README.md", "docs/going-live.md", "docs/scale.md", "docs/usage.md"]
SAME = {"README.ja.md": "README.md"}  # pages that show the blocks of another one

# Pictures that are made by a script and kept: without them the script must be there.
MADE = {"docs/images/demo.png": "examples/demo_picture.py", "docs/images/page.png": "examples/page_picture.py"}

# Not run here: the lines as they stand, and where they are run.
ELSEWHERE = {
    "flawmap weights fetch alexnet": "needs the network",
    "flawmap train cloth -o fm.flawmap --preset fast --method fm --minutes 10": (
        "needs what was fetched; in tests/test_features.py"
    ),
    "flawmap weights fetch squeezenet": "needs the network",
    "flawmap train cloth -o dictionary.flawmap --preset fast --method cnn-dictionary": (
        "needs what was fetched; in tests/test_feature_dictionary.py"
    ),
    "flawmap train cloth -o gaussian.flawmap --preset fast --method cnn-dictionary --set method.measure=gaussian": (
        "needs what was fetched; in tests/test_feature_dictionary.py"
    ),
    "flawmap inspect cloth.flawmap cloth/test -o found-openvino --engine openvino": (
        "needs an extra; in tests/test_engines.py"
    ),
    "flawmap export cloth.flawmap cloth/train/good --to openvino --int8 -o cloth8.xml": (
        "no training of two steps bears it; in tests/test_export.py"
    ),
    "flawmap serve cloth.flawmap --store results": "goes on for ever; in tests/test_service_process.py",
    "flawmap serve fleet --store results": "goes on for ever; in tests/test_fleet.py",
    "flawmap watch cloth.flawmap line --store watched --move-ok done --move-flawed rejected --move-failed unreadable": (
        "goes on for ever; in tests/test_watch.py"
    ),
    "flawmap retrain cloth.flawmap cloth --store results --minutes 10": (
        "needs an operator's word; in tests/test_retrain.py"
    ),
    "OMP_NUM_THREADS=4 torchrun --nproc-per-node 2 -m flawmap train cloth -o big.flawmap --preset fast --minutes 10": (
        "two processes; in tests/test_torchrun.py"
    ),
    "ray get-auth-token --generate": "writes to the home folder; tests/test_cluster.py sets a token of its own",
    "ray start --head --port 6379": "goes on; in tests/test_cluster.py",
    "ray start --address 10.0.0.1:6379": "goes on; in tests/test_cluster.py",
    "flawmap inspect cloth.flawmap cloth/test -o scores-cluster --ray auto": "in tests/test_cluster.py",
    "uv pip install .": "by `make demo` in essence",
    "uv pip install --torch-backend cpu .": "in the workflow of continuous integration",
    "flawmap train fabric -o fabric-paper.flawmap --preset paper --scale 256x256": "hours",
}
REAL = "$FLAWMAP_DATA"  # commands on real images are run by `make reproduce`

SMALLER = (  # pattern, replacement; in commands
    (r"--(minutes|steps|set training.epochs=\S+)( \d+)?", "--steps 2 --set training.batch=4"),
    (r"--good \d+", "--good 6"),
    (r"--bad \d+", "--bad 4 --size 160x160"),
)
SMALLER_TOML = ((r"training.minutes = \d+", "training = { steps = 2, batch = 4 }"),)
SMALLER_PYTHON = ((r'"minutes": \d+', '"steps": 2, "batch": 4'),)

QUICK = {
    "evaluation.evidence.PASTED_IMAGES": 2,
    "evaluation.choice.PARTS": 3,
    "evaluation.agreement.PARTS": 2,
    "evaluation.selfcheck.KINDS": ("spot",),
    "evaluation.selfcheck.CONTRASTS": (0.2,),
    "evaluation.selfcheck.DEFECTS": 2,
    "evaluation.selfcheck.TOLERANCE_PARTS": 2,
    "commands.train.VALIDATION_PATCHES": 8,
    "methods.gradient.INIT_PATCHES": 16,
    "methods.mixture.PATCHES": 4,
    "methods.mixture.ROUNDS": 2,
}
FEWER: dict[str, dict[str, Any]] = {
    "choice": {
        "candidates": ("method.name=ssim", "method.name=gmm tiling.stride=96"),
        "quicker": ("tiling.stride=60",),
    },
    "tiling": {"stride": 64},
}
"""What the preset `auto` tries, and how many patches it scores; tests/test_choice.py sees all of it."""

JSON_FILES = ("measured/metrics.json", "drift/monitor.json")

FOREIGN = {
    "--torch-backend",
    "--data-binary",
    "--head",
    "--port",
    "--address",
    "--generate",
}  # options of other programs


@dataclass(frozen=True)
class Block:
    """A fenced block of a page. line: of its first line, from 1."""

    page: str
    line: int
    language: str
    text: str


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    found = re.finditer(r"^```(\w+)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    text = page.read_text(encoding="utf-8")
    for match in found:
        yield Block(name_of(page), text.count("\n", 0, match.start()) + 2, match[1], match[2])


def commands(block: Block) -> Iterator[str]:
    """The commands of a shell block, without comments."""
    for line in block.text.replace("\\\n", " ").splitlines():
        command = re.sub(r"(^|\s+)#.*$", "", line).strip()
        if command:
            yield command


def prose(page: Path) -> str:
    """A page without its blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def smaller(text: str, changes: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in changes:
        text = re.sub(pattern, replacement, text)
    return text


ALL_BLOCKS = [block for page in PAGES for block in blocks(page)]
SHELL = [(block, command) for block in ALL_BLOCKS if block.language == "sh" for command in commands(block)]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less work where a training does much whatever its budget."""
    for name, value in QUICK.items():
        monkeypatch.setattr(f"flawmap.{name}", value)
    for section, changed in FEWER.items():
        monkeypatch.setitem(presets.PRESETS["auto"], section, presets.PRESETS["auto"][section] | changed)


@pytest.fixture
def documents_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """What each command would print for --json has the fields that docs/formats.md tells."""

    def check(self: Output, kind: str, data: dict[str, Any], show: Any) -> None:
        assert set(document(kind, data)) == documented.fields_of(schema(kind))
        print_result(self, kind, data, show)

    print_result = Output.result
    monkeypatch.setattr(Output, "result", check)


def run_command(command: str, folder: Path) -> None:
    arguments = shlex.split(smaller(command, SMALLER))[1:]
    allowed = {0, 3} if "--fail-on-flaw" in arguments else {0}
    assert main(arguments) in allowed, command
    if arguments[0] == "train" and "--show-config" not in arguments:
        assert (folder / arguments[arguments.index("-o") + 1]).is_file()


@pytest.mark.slow
@pytest.mark.timeout(900)  # a page has dozens of commands
@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=pytest.mark.cluster if page == "docs/scale.md" else ()) for page in RUN]
)
@pytest.mark.usefixtures("quick", "documents_are_told")
def test_commands_and_python_blocks_run(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Every flawmap command and every Python block of the page works, in the order in which a reader types them."""
    if page == "docs/scale.md":
        request.getfixturevalue("ray_started")  # one for all of its commands
    monkeypatch.chdir(tmp_path)
    for block in blocks(ROOT / page):
        if block.language == "toml":
            name = re.match(r"# (\S+\.toml)\n", block.text)
            (tmp_path / (name[1] if name else "unnamed.toml")).write_text(
                smaller(block.text, SMALLER_TOML), encoding="utf-8"
            )
        elif block.language == "python":
            where = f"{block.page}:{block.line}"
            exec(compile(smaller(block.text, SMALLER_PYTHON), where, "exec"), {"__name__": "shown"})
        elif block.language == "sh":
            for command in commands(block):
                if command.startswith("flawmap ") and command not in ELSEWHERE and REAL not in command:
                    run_command(command, tmp_path)
    if page == "docs/usage.md":
        check_files(tmp_path)


def check_files(folder: Path) -> None:
    """The files of the walk hold the fields that docs/formats.md tells."""
    line = json.loads((folder / "found" / "inspections.jsonl").read_text(encoding="utf-8").splitlines()[0])
    for found in (line, *(json.loads((folder / name).read_text(encoding="utf-8")) for name in JSON_FILES)):
        assert set(found) == documented.fields_of(found["schema"])
    header = (folder / "cloth.history.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    assert header == documented.columns_after("`NAME.history.csv` has the columns")


@pytest.mark.parametrize(("block", "command"), SHELL, ids=lambda value: value if isinstance(value, str) else "")
def test_every_command_is_known(block: Block, command: str) -> None:
    """A command in the documentation is run, here or elsewhere; of scripts and targets the files are there."""
    where = f"{block.page}:{block.line}"
    words = command.split()
    if command in ELSEWHERE:
        return
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert re.search(rf"^{re.escape(words[1])}:", makefile, re.MULTILINE), f"{where}: no target {words[1]}"
    elif words[0] == "curl":
        assert block.page == "docs/going-live.md", f"{where}: curl is run by tests/test_service_process.py on one page"
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file(), f"{where}: no file {words[1]}"
        assert words[1].startswith(("examples/", "benchmarks/"))
    else:
        assert words[0] == "flawmap", f"{where}: neither run nor named in ELSEWHERE: {command}"
        assert REAL in command or SAME.get(block.page, block.page) in RUN, (
            f"{where}: {block.page} is not among the pages that are run"
        )


def test_both_readmes_show_the_same_commands() -> None:
    """The Japanese page has the English one's blocks, so they are run with it."""
    for page, other in SAME.items():
        assert [block.text for block in blocks(ROOT / page)] == [block.text for block in blocks(ROOT / other)]


def test_what_runs_elsewhere_is_shown() -> None:
    """ELSEWHERE holds no line that the documentation has dropped."""
    assert set(ELSEWHERE) <= {command for _, command in SHELL}


# ------------------------------------------------------------------------------------------------ options and settings

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


@pytest.fixture(scope="module")
def options() -> dict[str, set[str]]:
    """The options of each command, from its --help."""
    from contextlib import redirect_stdout
    from io import StringIO

    def help_of(*command: str) -> str:
        text = StringIO()
        with redirect_stdout(text):
            assert main([*command, "--help"]) == 0
        return text.getvalue()

    names = re.findall(r"^  (\w+)  ", help_of().partition("Commands:")[2], re.MULTILINE)
    assert "train" in names
    top = {"": set(OPTION.findall(help_of()))}
    return top | {name: set(OPTION.findall(help_of(name))) for name in names}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_options_exist(page: Path, options: dict[str, set[str]]) -> None:
    """Every option that a page mentions is one of its command's; in the text, of any command's."""
    for block in blocks(page):
        for command in commands(block) if block.language == "sh" else ():
            started = command.rpartition(" -m ")[2]  # what torchrun starts, or all of it
            words = started.split()
            if words[0] == "flawmap":
                unknown = set(OPTION.findall(started)) - options[words[1]]
            elif words[0] == "python":
                shared = ROOT / "benchmarks" / "measuring.py"  # --repeats, --threads, --json
                source = (ROOT / words[1]).read_text(encoding="utf-8") + shared.read_text(encoding="utf-8")
                unknown = {name for name in OPTION.findall(command) if f'"{name}"' not in source}
            else:
                unknown = set(OPTION.findall(command)) - FOREIGN
            assert not unknown, f"{block.page}: {command}"
    known = set().union(*options.values()) | script_options()
    assert set(OPTION.findall(prose(page))) <= known


def script_options() -> set[str]:
    scripts = [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "examples").glob("*.py")]
    return {name for script in scripts for name in re.findall(r'"(--[a-z-]+)"', script.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_mentioned_in_the_text_exist(page: Path, options: dict[str, set[str]]) -> None:
    """`flawmap COMMAND --option` in the text names a command and options of that command."""
    for mention in re.findall(r"`flawmap ([a-z][^`]*)`", prose(page)):
        name = mention.split()[0]
        for command in re.findall(r"[a-z]+", mention) if "|" in mention else [name]:
            assert command in options, f"{page.name}: flawmap {mention}"
        assert set(OPTION.findall(mention)) <= options[name], f"{page.name}: flawmap {mention}"


SECTIONS = "|".join(Config.model_fields)
KNOWN = {path for method in METHODS for path in overrides.known_settings(method)}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_settings_exist(page: Path) -> None:
    """A setting that a page names in backticks, as in `training.pool`, is one; TOML blocks are accepted (a fleet's file
    by the walk)."""
    named = set(re.findall(rf"`((?:{SECTIONS})\.[a-z_.]+)`", prose(page)))
    assert {name for name in named if not is_code(name)} <= KNOWN
    for block in blocks(page):
        if block.language == "toml" and "[types." not in block.text:
            overrides.override(presets.preset("fast"), tomllib.loads(block.text))


def is_code(name: str) -> bool:
    """Whether a dotted name is a module or something in one, such as images.read_image."""
    module, _, inside = name.partition(".")
    path = ROOT / "src" / "flawmap" / f"{module}.py"
    folder = ROOT / "src" / "flawmap" / module
    if folder.is_dir():
        return (folder / f"{inside}.py").is_file()
    if not path.is_file():
        return False
    defined = ast.parse(path.read_text(encoding="utf-8")).body
    return any(getattr(node, "name", None) == inside for node in defined)


def test_presets_are_as_the_paper_page_says() -> None:
    """The table of presets in docs/paper.md holds their values."""
    text = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z_.]+)` \| ?(\S*) \| ?(\S*) \|$", text, re.MULTILINE)
    assert len(rows) > 15
    for path, *cells in rows:
        for name, cell in zip(("paper", "fast"), cells, strict=True):
            value: Any = presets.preset(name)
            for key in path.split("."):
                value = getattr(value, key)
            assert cell == ("" if value is None else str(value)), f"{path} of preset {name}"


def test_dependencies_have_their_reasons() -> None:
    """docs/architecture.md gives a reason for every dependency of pyproject.toml, and for no other."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {re.split(r"[<>=~!;\[ ]", entry)[0] for entry in project["dependencies"]}
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text.partition("## Dependencies")[2].partition("\n## ")[0]
    told = re.findall(r"^\| ([\w-]+)(?: \([^)]*\))? \|", table, re.MULTILINE)
    assert set(told) - {"package"} == names
    for extra in project["optional-dependencies"]["dev"]:
        assert re.split(r"[<>=~!;\[ ]", extra)[0] in table


def test_module_paths_exist() -> None:
    """A source file that a page names in backticks is there."""
    for page in PAGES:
        for path in re.findall(r"`([\w/]+\.py)`", prose(page)):
            places = [ROOT / path, ROOT / "src" / "flawmap" / path]
            assert any(place.is_file() for place in places), f"{page.name}: {path}"


# ---------------------------------------------------------------------------------------------------------------- links


def slug(heading: str) -> str:
    """The anchor of a heading: lower case, without punctuation, hyphens for blanks."""
    plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link resolves to a file, and its anchor to a heading in it; no page names a host."""
    text = re.sub(r"\n", " ", prose(page))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        assert "://" not in target, f"{page.name} links to {target}"
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        name = place.relative_to(ROOT).as_posix()
        if name in MADE and not place.exists():
            assert (ROOT / MADE[name]).is_file()
            continue
        assert place.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", prose(place), re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}, f"{page.name}: {target}"


def test_pictures_are_small() -> None:
    """Pictures in the repository stay below 300 kB each."""
    for picture in (ROOT / "docs").rglob("*.png"):
        assert picture.stat().st_size < 300_000, picture
