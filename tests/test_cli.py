"""The command line: every command and option, what goes where, and the exit codes."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tifffile
import typer

import flawmap
from documented import fields_of
from flawmap.commands import info as commands_info
from flawmap.commands.cli import app, main
from flawmap.core.errors import ArtifactError
from flawmap.core.settings import ImageSettings
from flawmap.data.layouts import find_dataset
from flawmap.imaging.reading import read_image, read_mask
from flawmap.methods.autoencoder import build_network
from flawmap.methods.config import Config
from flawmap.methods.overrides import override
from flawmap.methods.presets import preset
from flawmap.scoring.model_file import DEFAULT, Artifact, load_artifact, save_artifact
from flawmap.scoring.operating_point import OperatingPoint

TINY = [
    "--preset",
    "fast",
    "--set",
    "model.patch=32",
    "--set",
    "method.latent=8",
    "--set",
    "tiling.stride=16",
    "--set",
    "training.batch=8",
    "--steps",
    "10",
]


class Ran(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line in this process."""

    def call(*arguments: object) -> Ran:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Ran(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def cloth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "cloth"
    assert main(["synth", str(folder), "--good", "8", "--bad", "4", "--size", "96x80", "--quiet"]) == 0
    return folder


@pytest.fixture(scope="module")
def model(cloth: Path) -> Path:
    path = cloth.parent / "cloth.flawmap"
    assert main(["train", str(cloth), "-o", str(path), *TINY, "--quiet"]) == 0
    return path


# ----------------------------------------------------------------------------------------------------------- commands


def test_synth(run: Run, tmp_path: Path) -> None:
    """`synth` writes as many good and flawed images of the size as asked for, with a mask for each flawed one."""
    ran = run("synth", tmp_path / "set", "--kind", "fibres", "--good", 3, "--bad", 2, "--size", "48x40", "--seed", 4)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines()[0] == f"{tmp_path / 'set' / 'train' / 'good'}: 3 images"
    assert len(list((tmp_path / "set" / "train" / "good").glob("*.png"))) == 3
    assert len(list((tmp_path / "set" / "test").rglob("*.png"))) == 1 + 2
    masks = list((tmp_path / "set" / "ground_truth").rglob("*.png"))
    assert [read_mask(mask).shape for mask in masks] == [(40, 48)] * 2


def test_data(run: Run, cloth: Path) -> None:
    """`data` prints counts, sizes, modes and masks, and what a region of interest does to them."""
    ran = run("data", cloth, "--roi-box", "0,0,4,4")
    assert (ran.code, ran.err) == (0, "")
    lines = [line.split() for line in ran.out.splitlines()]
    assert lines[0] == [f"{cloth}:", "mvtec", "layout"]
    assert ["train", "good", "good", "8"] in lines
    assert ["sizes", "96", "x", "80:", "14"] in lines
    assert ["modes", "grey,", "uint8:", "14"] in lines
    assert ["masks", "matched:", "4"] in lines
    assert "flaws all outside the region: neither good nor defective (4):" in ran.out


def test_train_says_what_it_made(run: Run, cloth: Path, tmp_path: Path) -> None:
    """`train` tells how the images were parted on stderr, and ends with model, loss and threshold on stdout."""
    ran = run("train", cloth, "-o", tmp_path / "m.flawmap", *TINY)
    assert ran.code == 0
    said = "mvtec data: 7 good images or areas to train on, 1 to validate, 2 held out as good test images"
    assert said in ran.err.splitlines()
    assert "10/10  training  loss " in ran.err
    assert re.search(r"^trained +10 steps, 80 patches", ran.out, re.MULTILINE)
    assert re.search(r"^threshold +0\.\d+ +\(at most 0\.0001 of the pixels of 1 held-out", ran.out, re.MULTILINE)


def test_info(run: Run, model: Path) -> None:
    """`info` prints the settings, the threshold and the origin of a model."""
    ran = run("info", model)
    assert (ran.code, ran.err) == (0, "")
    for line in (
        r"patches +32 pixels, 1 channel\(s\), d = 8",
        r"scoring +stride 16, opening 4",
        r"trained +10 steps, 80 patches",
        rf"versions +flawmap {re.escape(flawmap.__version__)}, ",
    ):
        assert re.search(f"^{line}", ran.out, re.MULTILINE)


def test_info_tells_what_the_threshold_is_not(run: Run, model: Path, tmp_path: Path) -> None:
    """The warning of the calibration stands beside its rule, also in the summary that a training prints."""
    artifact = load_artifact(model)
    point = artifact.operating_point
    assert point is not None
    warned = artifact.with_point(point.model_copy(update={"found": point.found | {"warning": "few were held out"}}))
    save_artifact(warned, tmp_path / "m.flawmap")
    assert re.search(r"; few\s+were\s+held\s+out\)", run("info", tmp_path / "m.flawmap").out)
    assert warned.summary()["points"]["default"]["found"]["warning"] == "few were held out"
    assert "scores" not in warned.summary()["calibration"]


def test_a_model_made_in_python(run: Run, cloth: Path, tmp_path: Path) -> None:
    """A model without a history is inspected with, measured and described; what nobody knows is called unknown."""
    tiny = {"model": {"patch": 32, "channels": 1}, "method": {"latent": 8}, "tiling": {"stride": 16}}
    config = override(preset("fast"), tiny)
    place = tmp_path / "m.flawmap"
    save_artifact(Artifact(config, build_network(config).state_dict(), {DEFAULT: OperatingPoint(threshold=0.5)}), place)
    said = run("info", place)
    assert said.code == 0
    assert re.search(r"^data +unknown", said.out, re.MULTILINE)
    assert re.search(r"^versions +unknown", said.out, re.MULTILINE)
    assert run("inspect", place, cloth / "test", "-o", tmp_path / "found", "--quiet").code == 0
    assert run("evaluate", place, cloth, "-o", tmp_path / "measured").code == 0
    assert "unknown" in (tmp_path / "measured" / "report.html").read_text(encoding="utf-8")


def test_inspect(run: Run, model: Path, cloth: Path, tmp_path: Path) -> None:
    """`inspect` prints a row for each image and where the pictures lie, and counts on stderr."""
    ran = run("inspect", model, cloth / "test" / "good", "-o", tmp_path / "out", "--residuals", "--threshold", 2)
    assert ran.code == 0
    assert ran.out.splitlines()[-1] == f"2 images: 0 flawed; written to {tmp_path / 'out'}"
    assert ran.err.splitlines()[-1].startswith("2/2  ")
    assert {path.name for path in (tmp_path / "out").glob("[!.]*")} == {
        f"00{number}_{kind}" for number in (0, 1) for kind in ("mask.png", "overlay.png", "residual.tif")
    } | {"inspections.jsonl", "regions.csv", "report.html"}


def test_inspect_tells_notes_about_files(run: Run, model: Path, cloth: Path, tmp_path: Path) -> None:
    """A note that many images share is printed once, one of a single image with its path; every row has its own."""
    pixels = read_image(cloth / "test" / "good" / "000.png", ImageSettings()).pixels[:, :, 0]
    for name, values in (("a", np.uint16(65535 * pixels)), ("b", np.uint16(65535 * pixels)), ("c", pixels)):
        tifffile.imwrite(tmp_path / f"{name}.tif", values)
    ran = run("inspect", model, tmp_path, "-o", tmp_path / "out")
    assert ran.out.splitlines()[-2:] == [
        "2 images: 16-bit divided by 65535",
        f"{tmp_path / 'c.tif'}: float32 taken as it is",
    ]
    rows = [json.loads(line) for line in (tmp_path / "out" / "inspections.jsonl").read_text().splitlines()]
    assert [len(row["notes"]) for row in rows] == [1, 1, 1]


def test_inspect_without_overlays(run: Run, model: Path, cloth: Path, tmp_path: Path) -> None:
    """`--no-overlays` leaves masks and lists."""
    run("inspect", model, cloth / "test" / "good" / "000.png", "-o", tmp_path, "--no-overlays", "--no-report")
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["000_mask.png", "inspections.jsonl", "regions.csv"]


def test_evaluate(run: Run, model: Path, cloth: Path, tmp_path: Path) -> None:
    """`evaluate` prints the figures that it writes, and leaves metrics, curve and page."""
    ran = run("evaluate", model, cloth, "-o", tmp_path / "out")
    assert ran.code == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert re.search(f"^pixel AUROC +{metrics['pixel']['auroc']:.4f}$", ran.out, re.MULTILINE)
    assert re.search(f"^image AUROC +{metrics['image']['auroc']:.4f}$", ran.out, re.MULTILINE)
    assert ran.out.splitlines()[-1] == f"6 images; written to {tmp_path / 'out'}"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["metrics.json", "report.html", "roc.png"]


@pytest.mark.slow
def test_demo(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`demo` trains both methods and leaves a page with five pictures a row for each flawed image and method."""
    from flawmap.commands import demo

    tiny = {
        "model": {"patch": 32},
        "method": {"latent": 8},
        "tiling": {"stride": 16},
        "training": {"steps": 6, "batch": 8},
    }
    small = {"good": 6, "bad": 2, "size": (48, 48), "settings": tiny}
    monkeypatch.setattr(demo.demo, "__kwdefaults__", demo.demo.__kwdefaults__ | small)
    ran = run("demo", "-o", tmp_path / "out", "--seed", 3)
    assert ran.code == 0
    rows = [line.split() for line in ran.out.splitlines()]
    assert [row[0] for row in rows] == ["method", "l2", "ssim", "look"]
    assert rows[-1][-1] == str(tmp_path / "out" / "index.html")
    assert "wrote 9 images of cloth" in ran.err
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert page.count('class="zoom"') == 2 * 2 * 5
    for word in ("image", "l2: reconstruction", "ssim: residual", "ssim: mask", "ground truth"):
        assert word in page
    assert {"demo.json", "l2.flawmap", "ssim.flawmap"} <= {path.name for path in (tmp_path / "out").iterdir()}
    again = run("demo", "-o", tmp_path / "out", "--seed", 3, "--json")
    assert again.code == 0, "a second run replaces the first"
    assert [row["name"] for row in json.loads(again.out)["methods"]] == ["l2", "ssim"]


def test_reproduce_without_the_experiments(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """From an installed wheel, which has no experiments, the error says where they are."""
    monkeypatch.setitem(sys.modules, "paper.reproduce", None)
    ran = run("reproduce", "figure6")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(
        "error: the paper's experiments are not part of the installed package; get flawmap's source"
    )


def test_synth_is_a_function_of_its_seed(tmp_path: Path) -> None:
    """The same seed writes the same bytes, another one others, over an older set of the same folder."""

    def written(seed: int, name: str) -> dict[str, bytes]:
        flawmap.synth(tmp_path / name, "twill", good=2, bad=2, size=(40, 40), seed=seed)
        root = tmp_path / name
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.png")}

    first = written(3, "a")
    assert len(first) == 2 + 1 + 2 + 2
    assert written(3, "b") == first
    assert written(4, "b") != first
    assert written(3, "b") == first
    assert find_dataset(tmp_path / "b").layout == "mvtec"


def test_info_from_python(model: Path) -> None:
    """The header as it is in the file, without the histogram of good scores, and the hash that names the file."""
    said = commands_info.info(model)
    header = load_artifact(model).header()
    calibration = header.pop("calibrations")["default"]
    assert len(calibration.pop("scores")["counts"]) > 2
    assert said["calibration"] == calibration
    assert said["file"] == str(model)
    assert len(said["version"]) == 12
    assert {key: said[key] for key in header} == header
    with pytest.raises(ArtifactError, match=r"no model file nowhere\.flawmap; "):
        commands_info.info(Path("nowhere.flawmap"))


# ------------------------------------------------------------------------------------------------------------- output

SHAPES: dict[str, tuple[list[str], set[str]]] = {
    "synth": (["synth", "{tmp}/set", "--good", "1", "--bad", "1", "--size", "40x40"], {"folder", "images"}),
    "data": (["data", "{cloth}"], {"root", "layout", "counts", "sizes", "masks", "problems"}),
    "train": (["train", "{cloth}", "-o", "{tmp}/m.flawmap", *TINY], {"model", "threshold", "config", "provenance"}),
    "show-config": (["train", "--show-config"], {"model", "method", "training", "threshold"}),
    "info": (["info", "{model}"], {"file", "version", "format", "config", "threshold", "provenance"}),
    "inspect": (["inspect", "{model}", "{cloth}/test/cut", "-o", "{tmp}/out"], {"folder", "images"}),
    "evaluate": (["evaluate", "{model}", "{cloth}", "-o", "{tmp}/out"], {"folder", "pixel", "image", "per_image"}),
    "weights": (["weights", "list"], {"fetched", "folder", "weights"}),
}


@pytest.mark.parametrize("name", SHAPES)
def test_json(run: Run, cloth: Path, model: Path, tmp_path: Path, name: str) -> None:
    """`--json` puts exactly one JSON document on stdout and nothing else."""
    arguments, keys = SHAPES[name]
    ran = run(*(part.format(tmp=tmp_path, cloth=cloth, model=model) for part in arguments), "--json")
    assert ran.code == 0
    said = json.loads(ran.out)
    assert keys <= set(said)
    if name != "show-config":
        assert said["schema"].startswith(f"flawmap.{name}/")
        assert set(said) == fields_of(said["schema"])


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "show-config"])
def test_quiet(run: Run, cloth: Path, model: Path, tmp_path: Path, name: str) -> None:
    """`--quiet` prints nothing where all goes well."""
    arguments, _ = SHAPES[name]
    ran = run(*(part.format(tmp=tmp_path, cloth=cloth, model=model) for part in arguments), "-q")
    assert ran == (0, "", "")


def test_quiet_still_prints_errors(run: Run) -> None:
    """`--quiet` does not hide why a command failed."""
    assert run("info", "nowhere.flawmap", "--quiet").err.startswith("error: no model file nowhere.flawmap; ")


def test_verbose_shows_the_log(run: Run, cloth: Path, tmp_path: Path) -> None:
    """`-v` shows what the library logs, which is silent without it and again after it."""
    arguments = ("train", cloth, "-o", tmp_path / "m.flawmap", *TINY[:-2], "--minutes", 0.01)
    assert re.search(r"^INFO flawmap\.methods\S+ .* minutes are \d+ steps$", run(*arguments, "-v").err, re.MULTILINE)
    assert "INFO" not in run(*arguments).err


@pytest.mark.skipif(sys.platform == "win32", reason="colons cannot be in a file's name there")
def test_paths_are_printed_as_they_are(run: Run, model: Path, cloth: Path, tmp_path: Path) -> None:
    """Brackets and colons in a file's name mean nothing to the terminal, and no long line is broken."""
    folder = tmp_path / ":smile: [red]" / ("x" * 60)
    folder.mkdir(parents=True)
    for name in ("[", "a[bold].png"):
        target = folder / name / "bold].png" if name == "[" else folder / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes((cloth / "test" / "good" / "000.png").read_bytes())
    ran = run("inspect", model, folder, "-o", folder / "out")
    assert ran.code == 0
    first_column = "".join(line.split("  ")[0] for line in ran.out.splitlines())
    whole = "".join(str(folder / "a[bold].png").split())
    assert whole in "".join(first_column.split()), "folded in the table, but whole"
    assert re.search(rf"^2 images: \d flawed; written to {re.escape(str(folder / 'out'))}$", ran.out, re.MULTILINE)
    assert str(folder / "a[bold].png") in run("data", folder).out


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file names are text")
def test_names_that_are_no_text(run: Run, model: Path, cloth: Path, tmp_path: Path) -> None:
    """A file's name that is not UTF-8 is inspected, listed and printed like any other."""
    (tmp_path / "\udcff.png").write_bytes((cloth / "test" / "good" / "000.png").read_bytes())
    ran = run("inspect", model, tmp_path, "-o", tmp_path / "out")
    assert ran.code == 0
    assert "\\udcff.png" in ran.out


@pytest.mark.skipif(sys.platform == "win32", reason="pipes there end otherwise")
@pytest.mark.parametrize("arguments", [["train", "--show-config"], ["data", "{cloth}"]])
def test_a_reader_may_leave(cloth: Path, arguments: list[str]) -> None:
    """When the reader of a pipe has gone (`| head`), the exit code is still that of the work, and nobody complains."""
    command = [sys.executable, "-m", "flawmap", *(part.format(cloth=cloth) for part in arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


# ------------------------------------------------------------------------------------------------------------ options

COMMON = {"--json", "--quiet", "--verbose", "--help"}
IMAGES = {"--mode", "--roi-box", "--roi-masks", "--config", "--set"}
RUNTIME = {"--device", "--precision", "--engine", "--roi-masks"}
STORE = {"--store", "--keep-images", "--keep-days", "--keep-gigabytes", "--mqtt", "--webhook"}
OPTIONS = {
    "demo": COMMON | {"--output", "--minutes", "--seed"},
    "synth": COMMON | {"OUTPUT", "--kind", "--good", "--bad", "--size", "--seed"},
    "data": COMMON | IMAGES | {"PATH"},
    "train": COMMON
    | IMAGES
    | {"DATA", "--output", "--preset", "--method", "--minutes", "--steps", "--scale", "--fast", "--seed"}
    | {"--device", "--show-config", "--resume", "--skip-unreadable", "--skip-outliers", "--tensorboard"},
    "calibrate": COMMON
    | RUNTIME - {"--engine"}
    | {"MODEL", "GOOD", "--output", "--alpha"}
    | {"--set-threshold", "--name", "--list", "--zone"},
    "inspect": COMMON
    | RUNTIME
    | {
        "MODEL",
        "IMAGES",
        "--output",
        "--threshold",
        "--residuals",
        "--overlays",
        "--report",
        "--fail-on-flaw",
        "--resume",
    }
    | {"--page", "--pages", "--point", "--read-timeout"}
    | {"--ray", "--actors", "--actor-cpus", "--actor-gpus", "--masks", "--skip-duplicates", "--dry-run"},
    "evaluate": COMMON
    | RUNTIME
    | {"MODEL", "DATASET", "--output", "--last", "--point", "--set"}
    | {"--ray", "--actors", "--actor-cpus", "--actor-gpus"},
    "monitor": COMMON | RUNTIME | {"MODEL", "IMAGES", "--output", "--fail-on-drift"},
    "report": COMMON | {"FOLDER", "MODEL"},
    "export": COMMON | {"MODEL", "IMAGES", "--to", "--output", "--int8", "--most", "--roi-masks"},
    "serve": (COMMON - {"--json"})
    | RUNTIME
    | STORE
    | {"MODELS", "--host", "--port", "--token-file", "--allow-host", "--queue", "--max-megabytes"},
    "watch": COMMON
    | RUNTIME
    | STORE
    | {"MODEL", "FOLDER", "--point", "--settle", "--move-ok", "--move-flawed", "--move-failed", "--once"},
    "results": COMMON | {"STORE", "--to", "--output", "--model", "--verdict", "--review", "--limit"},
    "retrain": COMMON | {"MODEL", "DATA", "--store", "--output", "--minutes", "--steps", "--resume"},
    "reproduce": COMMON
    | {"WHAT", "--data", "--output", "--preset", "--minutes", "--steps", "--epochs", "--sets", "--methods", "--seeds"}
    | {"--features", "--feature-network", "--jobs", "--list", "--keep-models", "--device", "--precision"},
    "fleet": COMMON | {"STEP", "FILE", "--output", "--types", "--ray"},
    "info": COMMON | {"MODEL", "--measure"},
    "weights": COMMON | {"ACTION", "NETWORK", "--url", "--output"},
}
# The unit of an option's number, as its help has to say.
UNITS = {
    "--minutes": "minutes",
    "--steps": "parameter updates",
    "--epochs": "passes over",
    "--roi-box": "pixels",
    "--scale": "pixels",
    "--size": "pixels",
    "--last": "images",
    "--good": "images",
    "--bad": "images",
    "--threshold": "residual",
}


def commands() -> dict[str, Any]:
    group: Any = typer.main.get_command(app)
    return dict(group.commands)


def parameters(name: str) -> dict[str, Any]:
    """A command's options by their long names and arguments by theirs, in capitals."""
    found = {"--help": None}
    for parameter in commands()[name].params:
        option = next((text for text in parameter.opts if text.startswith("--")), None)
        found[option or parameter.metavar or parameter.name.upper()] = parameter
    return found


def test_commands() -> None:
    """These commands exist and no others: a change is deliberate."""
    assert list(commands()) == [
        "demo",
        "synth",
        "data",
        "train",
        "inspect",
        "evaluate",
        "calibrate",
        "monitor",
        "report",
        "export",
        "serve",
        "watch",
        "results",
        "retrain",
        "fleet",
        "reproduce",
        "info",
        "weights",
    ]
    assert set(commands()) == set(OPTIONS)


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name: str) -> None:
    """A command has these options and no others: a change is deliberate."""
    assert set(parameters(name)) == OPTIONS[name]


@pytest.mark.parametrize("name", OPTIONS)
def test_help_names_unit_and_default(run: Run, name: str) -> None:
    """Every option's help says what it is, in which unit, and what it is without it; flags are off until given."""
    ran = run(name, "--help")
    assert (ran.code, ran.err) == (0, "")
    entries = [" ".join(entry.split()) for entry in re.split(r"\n  (?=-)", ran.out)]
    for option, parameter in parameters(name).items():
        if parameter is None or not option.startswith("--"):
            assert option == "--help" or parameter.help
            continue
        (entry,) = [entry for entry in entries if re.match(rf"(-., )?{option} ", entry)]
        assert len(parameter.help) > 5
        if not parameter.is_flag or parameter.secondary_opts:
            assert "[default" in entry or (parameter.required and "[required]" in entry)
        if option in UNITS:
            assert UNITS[option] in entry.casefold()


def test_every_switch_can_be_switched_off() -> None:
    """Each flag has its `--no-` form, so that an option can say either; `--fast` has `--thorough`."""
    for name in OPTIONS:
        for option, parameter in parameters(name).items():
            if parameter is not None and getattr(parameter, "is_flag", False) and option not in ("--version", "--fast"):
                assert f"--no-{option[2:]}" in parameter.secondary_opts, f"{name} {option}"


def test_help_names_the_settings_own_defaults() -> None:
    """A default that the help of `train` names is that of the settings, from which it is made."""
    usual = Config()
    named = {
        option: re.search(r"\[default: ([\w.]+)\]", p.help or "") for option, p in parameters("train").items() if p
    }
    places = {
        "--method": usual.method.name,
        "--minutes": usual.training.minutes,
        "--scale": usual.images.scale,
        "--mode": usual.images.mode,
        "--seed": usual.training.seed,
        "--device": usual.training.device,
    }
    for option, value in places.items():
        found = named[option]
        assert found, option
        assert type(value)(found[1]) == value, option


def test_help(run: Run) -> None:
    """`flawmap`, `flawmap --help`: what it is for and every command in a whole sentence."""
    ran = run("--help")
    assert (ran.code, ran.err) == (0, "")
    assert "Train on good images, get a map of the flaws in any other." in ran.out
    for name in OPTIONS:
        assert re.search(rf"^  {name} +[A-Z].*\.$", ran.out, re.MULTILINE)
    assert "..." not in ran.out.partition("Commands:")[2]
    assert run() == ran


def test_version(run: Run) -> None:
    """`flawmap --version` prints the package's version."""
    assert run("--version") == (0, f"flawmap {flawmap.__version__}\n", "")


def test_python_m_flawmap() -> None:
    """`python -m flawmap` is the same command, and its exit code that of the work."""
    done = subprocess.run([sys.executable, "-m", "flawmap", "nonsense"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: No such command 'nonsense'; see `flawmap --help`\n"


# ----------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--preset", "paper", "--method", "l2"],
        [
            "--preset",
            "paper",
            "--steps",
            "7",
            "--roi-box",
            "1,2,300,400",
            "--scale",
            "256x128",
            "--set",
            "tiling.pad=true",
        ],
        ["--minutes", "0.5", "--set", "images.roi.brightness=[0.1, 0.9]", "--scale", "0.5", "--mode", "grey"],
        ["--set", "images.white=4095", "--set", "method.ssim.size=21", "--set", "residual.ssim.size=21"],
        [
            "--roi-masks",
            'odd "name"/é',
            "--set",
            "split.last=3",
            "--set",
            "threshold.rule=largest",
            "--set",
            "training.augment=turns",
        ],
        [
            "--set",
            "model.patch=64",
            "--set",
            "method.latent=5",
            "--set",
            "tiling.stride=9",
            "--set",
            "training.batch=4",
            "--seed",
            "8",
        ],
        [
            "--set",
            "training.learning_rate=3e-5",
            "--set",
            "split.validation=0.25",
            "--set",
            "split.seed=2",
            "--set",
            "threshold.false_positive_rate=1e-6",
        ],
        ["--device", "cpu", "--set", "training.precision=float32", "--set", "images.pixel_limit=1000"],
    ],
)
def test_show_config_reads_back(run: Run, tmp_path: Path, arguments: list[str]) -> None:
    """`--show-config` prints TOML that `--config` reads back to the same settings."""
    shown = run("train", "--show-config", *arguments)
    assert (shown.code, shown.err) == (0, "")
    (tmp_path / "c.toml").write_text(shown.out, encoding="utf-8")
    assert run("train", "--show-config", "--config", tmp_path / "c.toml").out == shown.out


def settings(run: Run, *arguments: object) -> dict[str, Any]:
    ran = run("train", "--show-config", "--json", *arguments)
    assert ran.code == 0, ran.err
    found: dict[str, Any] = json.loads(ran.out)
    return found


def test_later_ones_win(run: Run, tmp_path: Path) -> None:
    """Preset, file, --set, option: each wins over those before it, also where it names the usual value."""
    file = tmp_path / "c.toml"
    file.write_text(
        '[model]\npatch = 64\n[method]\nname = "l2"\nlatent = 77\n[training]\nsteps = 5\nseed = 9\ndevice = "cuda"\n'
    )
    preset = settings(run, "--preset", "paper")
    assert (preset["method"]["latent"], preset["training"]["epochs"]) == (100, 200)
    by_file = settings(run, "--preset", "paper", "--config", file)
    assert by_file["method"] == {"name": "l2", "latent": 77}
    assert by_file["model"]["patch"] == 64
    assert (by_file["training"]["steps"], by_file["training"]["epochs"], by_file["training"]["seed"]) == (5, None, 9)
    assert by_file["training"]["learning_rate"] == preset["training"]["learning_rate"] == 2e-4
    by_set = settings(run, "--config", file, "--set", "method.latent=8", "--set", "training.seed=7")
    assert (by_set["method"]["latent"], by_set["training"]["seed"]) == (8, 7)
    usual = ["--method", "ssim", "--device", "auto", "--seed", "0", "--minutes", "2"]
    by_option = settings(run, "--config", file, "--set", "method.latent=8", "--set", "method.latent=5", *usual)
    assert (by_option["method"]["name"], by_option["method"]["latent"], by_option["model"]["patch"]) == ("ssim", 5, 64)
    training = by_option["training"]
    assert (training["device"], training["seed"], training["minutes"], training["steps"]) == ("auto", 0, 2, None)


def test_a_residual_of_a_file_survives_the_method(run: Run, tmp_path: Path) -> None:
    """Only where nobody chose a residual does it follow the method."""
    file = tmp_path / "c.toml"
    file.write_text('[residual]\nname = "contrast"\n')
    assert settings(run, "--config", file, "--method", "ssim")["residual"]["name"] == "contrast"
    assert settings(run, "--config", file, "--method", "l2")["residual"]["name"] == "contrast"
    assert settings(run, "--method", "l2")["residual"]["name"] is None


def test_options_reach_the_settings(run: Run) -> None:
    """Each option of `train` changes the setting of its name, and --set any other."""
    given = ("--scale", "40x30", "--mode", "colour", "--roi-box", "1,2,3,4", "--seed", 4)
    others = {
        "method.latent": 6,
        "split.last": 2,
        "tiling.average": "residuals",
        "residual.border_correction": True,
        "training.learning_rate": 0.5,
    }
    assigned = [part for key, value in others.items() for part in ("--set", f"{key}={str(value).lower()}")]
    found = settings(run, *given, "--preset", "fast", "--steps", 11, "--device", "cpu", *assigned)
    assert found["method"]["latent"] == 6
    assert (found["images"]["scale"], found["images"]["mode"]) == ([40, 30], "colour")
    assert found["images"]["roi"]["box"] == [1, 2, 3, 4]
    assert found["split"]["last"] == 2
    training = {"seed": 4, "steps": 11, "device": "cpu", "learning_rate": 0.5}
    assert found["training"] | training == found["training"]
    assert (found["tiling"]["average"], found["residual"]["border_correction"]) == ("residuals", True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training.batch", "a setting is given as section.key=value such as training.batch=64, got training.batch"),
        ("batch=3", "a setting is given as section.key=value such as training.batch=64, got batch=3"),
        ("training.btach=3", "unknown setting training.btach; did you mean training.batch?"),
        ("method.kl_weight=3", "unknown setting method.kl_weight; it belongs to the method vae"),
        ("training.batch=many", "training.batch: Input should be a valid integer, got 'many'"),
    ],
)
def test_a_setting_that_is_none(run: Run, text: str, message: str) -> None:
    """The message says what was expected, or names the nearest setting."""
    assert run("train", "--show-config", "--set", text) == (2, "", f"error: {message}\n")


# --------------------------------------------------------------------------------------------------------- exit codes


def test_fail_on_flaw(run: Run, model: Path, cloth: Path, tmp_path: Path) -> None:
    """Flaws are 3 with `--fail-on-flaw` and 0 without it; without flaws it is 0 either way."""
    image, out = cloth / "test" / "good" / "000.png", ["-o", tmp_path / "out", "--quiet"]
    assert run("inspect", model, image, *out, "--threshold", 0.001).code == 0
    assert run("inspect", model, image, *out, "--threshold", 0.001, "--fail-on-flaw").code == 3
    assert run("inspect", model, image, *out, "--threshold", 2, "--fail-on-flaw").code == 0


def test_unreadable_wins_over_flaws(run: Run, model: Path, cloth: Path, tmp_path: Path) -> None:
    """With an unreadable image the exit code is 4, flaws or not, the rest is done, and the image is named."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes((cloth / "test" / "good" / "000.png").read_bytes())
    (tmp_path / "in" / "b.png").write_text("no image")
    arguments = ("inspect", model, tmp_path / "in", "-o", tmp_path / "out", "--threshold", 0.001, "--fail-on-flaw")
    ran = run(*arguments)
    assert ran.code == 4
    assert f"2 images: 1 flawed, 1 unreadable; written to {tmp_path / 'out'}" in ran.out
    assert f"{tmp_path / 'in' / 'b.png'} is no known image, whatever its name says" in ran.out
    assert (tmp_path / "out" / "a_mask.png").is_file()


def test_evaluate_with_an_unreadable_image(run: Run, model: Path, tmp_path: Path) -> None:
    """An unreadable test image makes `evaluate` exit with 4, names it, and leaves figures of the rest."""
    main(["synth", str(tmp_path / "set"), "--good", "1", "--bad", "2", "--size", "64x64", "--quiet"])
    (tmp_path / "set" / "test" / "good" / "000.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    ran = run("evaluate", model, tmp_path / "set", "-o", tmp_path / "out")
    assert ran.code == 4
    assert f"2 images, 1 not counted; written to {tmp_path / 'out'}" in ran.out
    assert "test/good/000.png: " in ran.out.replace("\\", "/")


@pytest.mark.parametrize("verbose", [False, True])
def test_our_fault(run: Run, cloth: Path, monkeypatch: pytest.MonkeyPatch, verbose: bool) -> None:
    """An exception that is no flawmap error is ours: exit code 1, its name, and the traceback only with -v."""

    def fail(*_: object) -> None:
        raise RuntimeError("the roof fell in")

    monkeypatch.setattr("flawmap.commands.data.data", fail)
    ran = run("data", cloth, *(["-v"] if verbose else []))
    assert (ran.code, ran.out) == (1, "")
    message = "flawmap failed, and should not have: RuntimeError: the roof fell in; -v shows the traceback"
    assert ran.err.endswith(f"error: {message}\n")
    assert ("Traceback" in ran.err) == verbose


def test_interrupted(run: Run, cloth: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C is 130, with a sentence and without a traceback."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flawmap.commands.data.data", stop)
    assert run("data", cloth) == (130, "", "interrupted; what was finished is kept\n")


def test_a_log_file_shows_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    """Where there is no terminal, each thing that goes on gets a line for every tenth of it that is done."""
    from flawmap.commands.console import Output, end_log
    from flawmap.methods.interface import Progress, Row

    output = Output.start(as_json=False, quiet=False, verbose=False)
    with output.events() as events:
        for number in range(1, 1001):
            events.progress(number, 1000, f"{number}.png")
        events.training(Progress(Row(20, 0.5, None, 1e-3, 2.0), 20, 99.6, 0.0), name="ssim")
    end_log()
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["1/1000  1.png", "100/1000  100.png"]
    assert lines[-2:] == ["1000/1000  1000.png", "20/20  ssim  loss 0.5000  100 patches/s  0.0 min left"]
    assert len(lines) == 1 + 10 + 1


def test_a_terminal_shows_a_bar() -> None:
    """On a terminal progress is a bar that says loss, speed and time left."""
    from rich.console import Console

    from flawmap.commands.console import Output
    from flawmap.methods.interface import Progress, Row

    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    output = Output(False, False, console, console)
    with output.events() as events:
        events.training(Progress(Row(20, 0.5, None, 1e-3, 2.0), 40, 99.6, 90.0))
        events.progress(1, 2, "x" * 100)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    assert "training  loss 0.5000  100 patches/s  1.5 min left" in shown
    assert "20/40" in shown
    assert "..." + "x" * 57 in shown
