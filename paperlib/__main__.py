"""``python -m paperlib COMMAND``: all that the package does, without notebooks.

A command imports what it needs itself: torch takes seconds, and help should come at once.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import yaml
from typer import Argument, Option
from typer.main import get_command

from paperlib import paths
from paperlib.errors import ConfigurationError, DataError, RunError, Terminated

app = typer.Typer(add_completion=False, rich_markup_mode=None, help=__doc__.partition(",")[0])
Profile = Annotated[str, Argument(help="A name in configs/, or a YAML file.")]
Pairs = Annotated[list[str] | None, Option("--set", metavar="KEY=VALUE", help="Change a key.")]
Name = Annotated[str | None, Option("--run", help="Only this run, as small_patch-both-seed0.")]


@app.command()
def prepare(profile: Profile, pairs: Pairs = None) -> None:
    """Decode and split the data set of a profile."""
    from paperlib.data.prepare import prepare

    for config in {run.data.folder: run.data for run, _ in _runs(profile, pairs)}.values():
        done = prepare(config)
        print(f"{done.folder}: {done.manifest['count']} images")


@app.command()
def describe(profile: Profile) -> None:
    """Say what a profile's incomplete images hold, and whether anything looks wrong."""
    from paperlib.beyond.incomplete import describe
    from paperlib.data.prepare import prepare

    config, _ = _runs(profile)[0]
    print(describe(prepare(config.data))[0])


@app.command()
def train(profile: Profile, pairs: Pairs = None, run: Name = None) -> None:
    """Train the runs of a profile, or the one named; go on where it stopped."""
    from paperlib.data.prepare import prepare
    from paperlib.training.loop import train
    from paperlib.training.processes import first, processes

    with processes():
        for config, folder in _runs(profile, pairs, run):
            first(lambda: bool(prepare(config.data)))  # noqa: B023, called at once
            train(config, folder)


@app.command()
def evaluate(profile: Profile, run: Name = None) -> None:
    """Evaluate the trained runs of a profile, or the one named."""
    from paperlib.evaluation.protocol import evaluate_run

    for _, folder in _runs(profile, run=run):
        evaluate_run(folder)


@app.command()
def references(profile: Profile, corruption: str | None = None) -> None:
    """Evaluate what fills in without learning, on the images of a profile."""
    from paperlib.data.prepare import prepare
    from paperlib.evaluation.protocol import evaluate_reference
    from paperlib.evaluation.references import ROWS

    configs = {run.corruption: run.evaluation for run, _ in _runs(profile)}
    folder = paths.RESULTS / Path(profile).stem / "references"
    for config in _chosen(configs, corruption):
        prepare(config.data)
        for name in ROWS:
            evaluate_reference(name, config, folder / f"{config.corruption}-{name}.json")


@app.command()
def tables(profile: Profile) -> None:
    """Write the tables and the judged claims of a profile from its records."""
    from paperlib.files import write_text
    from paperlib.paper import claims, tables

    _runs(profile)
    records, name = tables.load_records(profile), Path(profile).stem
    texts = tables.rendered(name, records) | claims.rendered(name, records)
    for file, text in texts.items():
        write_text(paths.RESULTS / name / file, text)
        print(paths.RESULTS / name / file)


@app.command()
def select(
    profile: Profile,
    run: Annotated[str, Option(help="Which run, as small_patch-both-seed0.")],
    values: Annotated[list[str], Argument(metavar="KEY=V1,V2...")],
) -> None:
    """Choose settings without complete images, from e.g. lambda_z=0.5,1,2 steps=400,800.

    Train every combination, score it on observed pixels that are hidden again, the best first.
    """
    from paperlib.beyond.selection import search

    config, trained = _runs(profile, run=run)[0]
    folder = trained.parents[1] / "selection" / config.name
    found = search(config, _parsed(values, "KEY=V1,V2,...", "[{}]"), folder)
    lines = found.to_string(float_format="{:.4f}".format)
    print(f"{lines}\nbest: {found.index[0]}; records in {folder}")


@app.command()
def inpaint(
    run: Annotated[Path, Argument(help="A trained run, as results/quick/runs/NAME.")],
    input: Annotated[Path, Argument(help="An image or a folder of images.")],
    output: Annotated[Path, Argument(help="A new folder.")],
    samples: Annotated[int, Option(min=1, help="Per image.")] = 5,
    seed: int = 0,
    missing: Literal["auto", "mask", "alpha", "nan"] = "auto",
    missing_value: Annotated[float | None, Option(help="Of missing pixels.")] = None,
    range: Annotated[tuple[float, float] | None, Option(help="Values of black and white.")] = None,
    max_pixels: Annotated[int, Option(help="Refuse images of more, undecoded.")] = 100_000_000,
    overwrite: Annotated[bool, Option("--overwrite", help="Write into a folder in use.")] = False,
) -> int:
    """Fill in your own incomplete images with a trained run.

    Missing pixels are given by NAME.mask.png beside NAME (white = observed), an alpha channel, NaN,
    or a value. JPEG comes back as PNG, which keeps what was observed.
    """
    from paperlib.beyond.inpaint import inpaint

    how = samples, seed, missing, missing_value, range, max_pixels, overwrite
    failed = inpaint(run, input, output, *how)
    for reason in failed.values():
        print(f"error: {reason}", file=sys.stderr)
    return 1 if failed else 0


@app.command()
def verify(
    results: Annotated[Path | None, Argument(help="Of all profiles, or one.")] = None,
) -> int:
    """Check all records, weights and tables on disk."""
    import paperlib.beyond  # noqa: F401, see _runs
    from paperlib.paper.verify import verify

    faults, looked_at = verify((results or paths.RESULTS).resolve())
    print(*faults, f"{looked_at}: {len(faults) or 'no'} faults", sep="\n")
    return 1 if faults else 0


def _runs(profile: str, pairs: Pairs = None, run: Name = None) -> list[tuple[Any, Path]]:
    """The configuration of each run of a profile, or the one called ``run``, and its folder."""
    import paperlib.beyond  # noqa: F401, its method and its data set have names too
    from paperlib.config import RunConfig
    from paperlib.profiles import load_profile

    changes = _parsed(pairs or [], "KEY=VALUE", "{}")
    runs = load_profile(profile)
    if changes:
        runs = [RunConfig.parse(config.model_dump() | changes, "--set") for config in runs]
    folder = paths.runs(Path(profile).stem)
    return _chosen({config.name: (config, folder / config.name) for config in runs}, run)


def _chosen(known: dict[str, Any], name: str | None) -> list[Any]:
    """The one called ``name``, or without it all."""
    if name not in (None, *known):
        raise ConfigurationError(f"no {name!r}; known: {', '.join(known)}")
    return [known[name]] if name else [*known.values()]


def _parsed(pairs: list[str], form: str, as_yaml: str) -> dict[str, Any]:
    """KEY=VALUE pairs, the values in YAML."""
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        try:
            value = yaml.safe_load(as_yaml.format(text))
        except yaml.YAMLError:
            raise ConfigurationError(f"{pair!r}: the value is not valid YAML") from None
        if not (key and equals) or key in found or value == []:
            raise ConfigurationError(f"expected {form}, each key once, got {pair!r}")
        found[key] = value
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run a command; its exit status: 2 after one line on what the user can mend, 130 after Ctrl-C,
    143 after SIGTERM, after a line that says how to go on."""

    def terminate(*_: object) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    words = sys.argv[1:] if arguments is None else arguments
    try:
        with get_command(app).make_context("python -m paperlib", words) as context:
            return context.command.invoke(context) or 0
    except typer.Exit as done:  # after --help
        return done.exit_code
    except KeyboardInterrupt as stop:
        print(stop if stop.args else "interrupted; run it again to go on", flush=True)
        return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)
    except typer.TyperException as error:
        message = " ".join(error.format_message().split())
    except (ConfigurationError, DataError, RunError, OSError) as error:
        message = str(error)
    print(f"error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
