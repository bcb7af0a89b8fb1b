"""``python -m paperlib prepare | describe | train | evaluate | references | tables | report |
select | inpaint | verify``, without notebooks."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import Any

import yaml

from paperlib import paths
from paperlib.config import ConfigurationError, RunConfig, evaluation_configs, load_profile
from paperlib.divergence import ON_NAN
from paperlib.files import DiskFull
from paperlib.image_source import MAX_PIXELS, DataError
from paperlib.interruption import exit_status, raise_terminated
from paperlib.records import RunError


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    The exit status is 2 after one clear line for what the user can mend, bad input or a full disk;
    130 after Ctrl-C and 143 after SIGTERM, after a line that says how to go on.
    """
    parser = argparse.ArgumentParser(prog="python -m paperlib", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    helps = {
        "prepare": "decode and split the data set of a profile",
        "describe": "say what a profile's incomplete images hold, and whether anything looks wrong",
        "train": "train the runs of a profile, or the one named; goes on where it stopped",
        "evaluate": "evaluate the trained runs of a profile, or the one named",
        "references": "evaluate what fills in without learning, on the images of a profile",
        "tables": "write the tables of a profile from its records",
        "report": "write one HTML page of everything that a profile has",
    }
    for name, text in helps.items():
        command = commands.add_parser(name, help=text)
        command.add_argument("profile", help="a name in configs/, or a YAML file")
        if name in ("prepare", "train"):
            command.add_argument(
                "--set", metavar="KEY=VALUE", action="append", default=[], help="change a key of it"
            )
        if name == "prepare":
            command.add_argument("--strict", action="store_true", help="stop at any bad image")
        if name == "references":
            command.add_argument("--corruption", help="only this corruption, e.g. small_patch")
        if name in ("train", "evaluate"):
            command.add_argument("--run", help="only this run, e.g. small_patch-both-seed0")
        if name == "train":
            command.add_argument(
                "--on-nan", choices=ON_NAN, help="stop, or go back to the last checkpoint and on "
                "with other random numbers, at most three times (stop)"
            )  # fmt: skip
    _add_select(commands)
    _add_inpaint(commands)
    command = commands.add_parser("verify", help="check all records, weights and tables on disk")
    command.add_argument(
        "results", type=Path, nargs="?", help=f"of all profiles, or of one ({paths.RESULTS})"
    )
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, raise_terminated)
    try:
        if options.command == "inpaint":
            return _inpaint(options)
        if options.command == "select":
            return _select(options)
        if options.command == "verify":
            return _verify(options.results or paths.RESULTS)
        if options.command == "train":
            from paperlib.distributed import processes

            with processes():
                _run(options)
        else:
            _run(options)
    except (ConfigurationError, DataError, RunError, DiskFull) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (PermissionError, FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        print(f"error: {error.filename}: {error.strerror}: choose another place", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(stop if stop.args else "interrupted; run it again to go on", flush=True)
        return exit_status(stop)
    return 0


def _add_select(commands: Any) -> None:
    command = commands.add_parser(
        "select",
        help="choose settings without complete images",
        description="Train a run with every combination of the values given, score each on "
        "observed pixels of the hold-out that are hidden again, and list them, the best first. "
        "Goes on where it stopped.",
    )
    command.add_argument("profile", help="a name in configs/, or a YAML file")
    command.add_argument("--run", required=True, help="which run, e.g. small_patch-both-seed0")
    command.add_argument(
        "values", nargs="+", metavar="KEY=V1,V2,...", help="e.g. lambda_z=0.5,1,2 steps=400,800"
    )


def _select(options: argparse.Namespace) -> int:
    from paperlib import selection
    from paperlib.data import prepare

    config = _named(load_profile(options.profile), options.run)
    grid = {}
    for pair in options.values:
        key, _, values = pair.partition("=")
        if key in grid:
            raise ConfigurationError(f"select: {key} is given twice")
        try:
            grid[key] = yaml.safe_load(f"[{values}]")
        except yaml.YAMLError:
            raise ConfigurationError(f"select: the values of {pair!r} are not YAML") from None
        if not key or not grid[key]:
            raise ConfigurationError(f"select takes KEY=V1,V2,..., got {pair!r}")
    folder = paths.RESULTS / Path(options.profile).stem / "selection" / config.name
    selection.candidates(config, grid)  # a wrong value is said before hours of work
    prepare(config.data)
    found = selection.search(config, grid, folder)
    print(selection.as_lines(found))
    print(f"best: {found[0]['name']}; records in {folder}")
    return 0


def _add_inpaint(commands: Any) -> None:
    command = commands.add_parser(
        "inpaint",
        help="fill in your own incomplete images with a trained run",
        description="Missing pixels are given by NAME.mask.png beside NAME (white = observed), an "
        "alpha channel, NaN, or a value. JPEG comes back as PNG, which keeps what was observed.",
    )
    command.add_argument("run_folder", metavar="RUN", type=Path, help="e.g. results/quick/runs/...")
    command.add_argument("input", type=Path, help="an image or a folder of images")
    command.add_argument("output", type=Path, help="a new folder")
    command.add_argument("--samples", type=int, default=5, metavar="K", help="per image (5)")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--missing", choices=("auto", "mask", "alpha", "nan"), default="auto")
    command.add_argument("--missing-value", type=float, metavar="V", help="of missing pixels")
    command.add_argument(
        "--range", type=float, nargs=2, metavar=("LOW", "HIGH"),
        help="the values of black and white (all of an integer type; 0 and 1 for floats)",
    )  # fmt: skip
    command.add_argument(
        "--max-pixels", type=int, default=MAX_PIXELS, metavar="N",
        help=f"images of more are refused, undecoded ({MAX_PIXELS:,}); no other limit holds",
    )  # fmt: skip
    command.add_argument("--overwrite", action="store_true", help="write into a folder in use")


def _inpaint(options: argparse.Namespace) -> int:
    from paperlib.inpaint import InpaintError, Options, inpaint

    if options.samples < 1:
        print("error: --samples must be at least 1", file=sys.stderr)
        return 2
    how = Options(
        samples=options.samples,
        seed=options.seed,
        missing=options.missing,
        missing_value=options.missing_value,
        limits=tuple(options.range) if options.range else None,
        max_pixels=options.max_pixels,
    )
    try:
        failed = inpaint(options.run_folder, options.input, options.output, how, options.overwrite)
    except InpaintError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for reason in failed.values():
        print(f"error: {reason}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of the images could not be filled in", file=sys.stderr)
    return 1 if failed else 0


def _verify(results: Path) -> int:
    from paperlib.verify import verify

    faults, looked_at = verify(results.resolve())
    for fault in faults:
        print(fault)
    print(f"{looked_at}: {len(faults) or 'no'} faults")
    return 1 if faults else 0


def _run(options: argparse.Namespace) -> None:
    profile = Path(options.profile).stem
    runs = load_profile(options.profile)
    if assignments := getattr(options, "set", None):
        runs = [_changed(run, assignments) for run in runs]
    if options.command == "prepare":
        from paperlib.data import prepare

        for config in {run.data.folder: run.data for run in runs}.values():
            done = prepare(config, strict=options.strict)
            print(f"{done.folder}: {done.manifest['count']} images")
        return
    if options.command == "describe":
        _describe(runs[0], paths.RESULTS / profile / "observed-by.png")
        return
    if options.command == "references":
        _evaluate_references(options.profile, options.corruption)
        return
    if options.command == "tables":
        from paperlib.claims import write_claims
        from paperlib.tables import write_tables

        written = [*write_tables(options.profile), *write_claims(options.profile)]
        print("\n".join(map(str, written)))
        return
    if options.command == "report":
        from paperlib.report import write_report

        print(write_report(options.profile))
        return
    from paperlib.progress import each_run

    for run in each_run([_named(runs, options.run)] if options.run else runs):
        folder = paths.runs(profile) / run.name
        if options.command == "train":
            from paperlib import distributed
            from paperlib.data import prepare
            from paperlib.training import train

            distributed.first(lambda: bool(prepare(run.data)))  # noqa: B023, called at once
            train(run, folder, on_nan=options.on_nan)
        else:
            from paperlib.evaluation import evaluate_run

            evaluate_run(folder)


def _named(runs: list[RunConfig], name: str) -> RunConfig:
    """The run called ``name``; ConfigurationError lists the names."""
    for run in runs:
        if run.name == name:
            return run
    known = ", ".join(run.name for run in runs)
    raise ConfigurationError(f"no run {name!r}; known: {known}")


def _describe(run: RunConfig, picture: Path) -> None:
    if run.dataset != "incomplete":
        raise ConfigurationError(f"dataset {run.dataset} has complete images: nothing to describe")
    from paperlib.data import prepare
    from paperlib.describe import describe
    from paperlib.plots import observed_by_figure, save_figure

    described = describe(prepare(run.data))
    save_figure(observed_by_figure(described.observed_by), picture)
    print(f"{described}\n{picture}: by how many images each pixel is observed")


def _evaluate_references(profile: str, corruption: str | None) -> None:
    from paperlib.data import prepare
    from paperlib.evaluation import evaluate_reference
    from paperlib.references import REFERENCES

    configs = {config.corruption: config for config in evaluation_configs(profile)}
    if corruption and corruption not in configs:
        raise ConfigurationError(
            f"no corruption {corruption!r} in {profile}; known: {', '.join(configs)}"
        )
    for config in configs.values() if not corruption else [configs[corruption]]:
        prepare(config.data)
        for name in REFERENCES:
            path = paths.references(Path(profile).stem) / f"{config.corruption}-{name}.json"
            evaluate_reference(name, config, path)


def _changed(run: RunConfig, assignments: list[str]) -> RunConfig:
    """``run`` with KEY=VALUE assignments (values in YAML); ConfigurationError for a wrong one."""
    values = run.model_dump()
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigurationError(f"--set {assignment}: expected KEY=VALUE")
        try:
            values[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigurationError(f"--set {assignment}: the value is not valid YAML") from None
    return RunConfig.parse(values, "--set")


if __name__ == "__main__":
    sys.exit(main())
