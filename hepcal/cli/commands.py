"""The command line; a thin skin over the library."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hepcal import __version__
from hepcal.cli.options import (
    WAIT,
    AllowSkipped,
    Chunksize,
    Execution,
    Executor,
    FilesetArgument,
    Jets,
    KeepLeptons,
    MethodChoice,
    Output,
    Scheduler,
    TrainingCommand,
    Truth,
    Workers,
    WorkerTimeout,
    opened,
    refuse_reading,
)
from hepcal.cli.printing import print_card, print_closure, print_pairs, print_scores, warnings_printed
from hepcal.cores import chosen_threads
from hepcal.errors import HepcalError
from hepcal.storage import outputs

if TYPE_CHECKING:
    from hepcal.events.features import Features
    from hepcal.tables.pairs import JetPairs
    from hepcal.tables.reading import ReadingOptions

__all__ = ["app", "main"]

SHOWN = (
    "a calibrator file (of 'hepcal train'), a training table (of 'hepcal pairs') or a result (of 'hepcal run' or "
    "'hepcal demo')"
)

app = typer.Typer(
    help="Jet calibration with per-jet uncertainties: ROOT events in, calibrated jets and their closure out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.command()
def demo(
    output: Output = Path("hepcal-demo"),
    workers: Annotated[int, typer.Option(min=1, help="Dask workers on this machine.")] = 2,
) -> None:
    """Run the whole job on the embedded sample: train, calibrate, check the closure, draw."""
    from hepcal.progress import say

    say("hepcal demo: 5,000 QCD dijet events to train on, 5,000 others to test on (Pythia 8 + Delphes)")
    from hepcal.demo import run_demo

    _, summary = run_demo(output, workers=workers)
    print_closure(summary, ": trained on 5,000 events, closed on 5,000 others")
    typer.echo(f"Results in {output}: jets.safetensors, hists.coffea, hists.json, summary.json, plots/")


@app.command()
def pairs(
    fileset: FilesetArgument,
    output: Output = Path("pairs"),
    config: Annotated[Path | None, typer.Option(help="YAML file of 'hepcal train', for its features.")] = None,
    jets: Jets = "Jet",
    truth: Truth = "GenJet",
    keep_leptons: KeepLeptons = False,
    executor: Executor = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    worker_timeout: WorkerTimeout = WAIT,
    chunksize: Chunksize = 100_000,
    allow_skipped: AllowSkipped = False,
) -> None:
    """Read events into a training table: one row per matched jet."""
    from hepcal.config import TrainingConfig
    from hepcal.events.filesets import load_fileset
    from hepcal.tables.files import prepare
    from hepcal.tables.pairs import JetPairs

    checked, features = load_fileset(fileset), TrainingConfig.read(config).features
    prepare(output)
    reading: ReadingOptions = {"jets": jets, "truth": truth, "keep_leptons": keep_leptons}
    reading |= {"chunksize": chunksize, "allow_skipped": allow_skipped}
    with opened(executor, workers, scheduler, worker_timeout) as reading["executor"]:
        table = JetPairs.write(checked, output, features, **reading)
    print_pairs(table)
    typer.echo(f"Training table in {output}")


@app.command(cls=TrainingCommand)
def train(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="Jets to train on: fileset, or output of 'hepcal pairs'.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Calibrator file.")] = Path("jets.safetensors"),
    method: Annotated[
        MethodChoice | None, typer.Option(help="What to train; default: as in the config, or bnn.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file: method, its settings, features; examples: analysis/configs.")
    ] = None,
    jets: Jets = "Jet",
    truth: Truth = "GenJet",
    keep_leptons: KeepLeptons = False,
    seed: Annotated[
        int, typer.Option(min=0, max=2**64 - 1, help="The same table, settings and seed give the same calibrator.")
    ] = 0,
    device: Annotated[str, typer.Option(help="Where to train: cpu, cuda, cuda:1 ...")] = "cpu",
    checkpoint: Annotated[
        Path | None, typer.Option(help="File for the state of the training, which goes on from it if it exists.")
    ] = None,
    executor: Executor = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    worker_timeout: WorkerTimeout = WAIT,
    allow_skipped: AllowSkipped = False,
) -> None:
    """Train a calibrator and save it as one file."""
    from hepcal.config import TrainingConfig
    from hepcal.methods.training import train as fit
    from hepcal.networks.devices import device_of
    from hepcal.storage.artefact import CARD_KEY

    # What a look at the settings can tell comes before hours of reading.
    if Path(source).is_dir():
        refuse_reading(context, Path(source))
    settings = TrainingConfig.read(config, method.value if method else None)
    outputs.refuse_same(source=Path(source), config=config, output=output, checkpoint=checkpoint)
    outputs.prepare_file(output, mark=CARD_KEY.encode())
    if checkpoint:
        outputs.prepare_file(checkpoint)
    chosen = settings.build()
    device_of(device)
    settings.require_inputs(chosen, jets)
    reading: ReadingOptions = {"jets": jets, "truth": truth, "keep_leptons": keep_leptons}
    reading["allow_skipped"] = allow_skipped
    table = _table(source, settings.features, (executor, workers, scheduler, worker_timeout), reading)
    if Path(source).is_dir():
        settings.require(table)
    print_pairs(table)
    calibrator = fit(table, chosen, seed=seed, device=device, checkpoint=checkpoint)
    calibrator.save(output)
    if checkpoint and chosen.resumes:
        checkpoint.unlink(missing_ok=True)
    print_card(calibrator)
    typer.echo(f"Calibrator in {output}")


@app.command()
def run(
    fileset: FilesetArgument,
    calibrator: Annotated[Path, typer.Option(help="Calibrator file.")],
    output: Output = Path("results"),
    executor: Executor = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    worker_timeout: WorkerTimeout = WAIT,
    chunksize: Chunksize = 100_000,
    allow_skipped: AllowSkipped = False,
    bsm_mass: Annotated[float, typer.Option(min=1, max=1e6, help="Mass of the resonance of BSM weights [GeV].")] = 2800,
    bsm_width: Annotated[float, typer.Option(min=0.1, max=1e6, help="Its width [GeV]; the paper uses 10.")] = 100.0,
    plots: Annotated[bool, typer.Option(help="Draw the plots; 'hepcal plot' can do it later.")] = True,
) -> None:
    """Calibrate dijets and write histograms, summary and plots."""
    from hepcal.events.filesets import load_fileset
    from hepcal.methods.calibrator import Calibrator
    from hepcal.tables.spectra import Resonance
    from hepcal.workflow import run_dijets

    loaded, checked = Calibrator.load(calibrator), load_fileset(fileset)
    resonance = Resonance(mass=bsm_mass, width=bsm_width)
    outputs.prepare_directory(output)
    with opened(executor, workers, scheduler, worker_timeout) as execute:
        summary = run_dijets(
            checked,
            loaded,
            execute,
            output,
            resonance=resonance,
            chunksize=chunksize,
            allow_skipped=allow_skipped,
            plots=plots,
        )
    print_closure(summary)
    typer.echo(f"Results in {output}: hists.coffea, hists.json, summary.json{', plots/' if plots else ''}")
    if not plots and (output / outputs.PLOTS).exists():
        typer.echo(f"{output / outputs.PLOTS} is of an earlier run: 'hepcal plot {output}' draws it anew")


@app.command()
def diagnose(
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(help="Other jets than those of the training: fileset, or output of 'hepcal pairs'.")
    ],
    calibrator: Annotated[list[Path], typer.Option(help="Calibrator file; repeat the option to compare several.")],
    output: Output = Path("diagnostics"),
    jets: Jets = "Jet",
    truth: Truth = "GenJet",
    keep_leptons: KeepLeptons = False,
    executor: Executor = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    worker_timeout: WorkerTimeout = WAIT,
) -> None:
    """Test the uncertainties of calibrators on other jets: coverage, pulls, scores, widths, with plots."""
    from hepcal.errors import CalibratorFileError
    from hepcal.evaluation.diagnostics import diagnose as diagnose_all
    from hepcal.methods.calibrator import Calibrator
    from hepcal.methods.card import joint_features
    from hepcal.workflow import write_diagnoses

    if Path(source).is_dir():
        refuse_reading(context, Path(source))
    loaded = {path.stem: Calibrator.load(path) for path in calibrator}
    if len(loaded) < len(calibrator):
        raise CalibratorFileError(
            "two of the calibrator files have the same name, which is what plots show: rename one"
        )
    outputs.prepare_directory(output)
    features = None if Path(source).is_dir() else joint_features({name: found.card for name, found in loaded.items()})
    reading: ReadingOptions = {"jets": jets, "truth": truth, "keep_leptons": keep_leptons}
    table = _table(source, features, (executor, workers, scheduler, worker_timeout), reading)
    found = diagnose_all(loaded, table)
    write_diagnoses(output, found)
    print_scores(found)
    typer.echo(f"Diagnostics in {output}: diagnostics.json, plots/")


@app.command()
def plot(directory: Annotated[Path, typer.Argument(help="Output of 'hepcal run' or 'hepcal demo'.")]) -> None:
    """Redraw the plots of a result from its histograms."""
    from hepcal import plot as drawing
    from hepcal.closure import results

    hists, summary = results.load_hists(directory), results.load_summary(directory)
    with results.whole(directory):
        paths = drawing.write(directory, hists, summary)
    typer.echo(f"{len(paths)} files in {directory / 'plots'}")


@app.command()
def show(
    path: Annotated[Path, typer.Argument(help="Calibrator file, training table, or result directory.")],
) -> None:
    """Print what is in a calibrator, a training table or a result."""
    from hepcal.closure import results

    if path.is_dir() and (path / "table.json").exists():
        from hepcal.tables.pairs import JetPairs

        print_pairs(JetPairs.open(path))
    elif path.is_dir() and not (path / "summary.json").exists():
        raise HepcalError(f"{path} holds nothing that is known here. What can be shown is {SHOWN}")
    elif path.is_dir():
        from hepcal.tables.input_differences import warn_if_inputs_differ

        summary = results.load_summary(path)
        with results.whole(path):
            print_closure(summary)
            warn_if_inputs_differ(summary)
    else:
        from hepcal.errors import CalibratorFileError
        from hepcal.methods.calibrator import Calibrator

        try:
            calibrator = Calibrator.load(path)
        except CalibratorFileError as error:
            raise HepcalError(f"{error}. What can be shown is {SHOWN}") from None
        print_card(calibrator)


def _version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _common(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - its callback has ended the program
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Jet calibration with per-jet uncertainties: ROOT events in, calibrated jets and their closure out."""
    context.with_resource(warnings_printed())
    # Before files are read, not at the first prediction.
    chosen_threads()


def _table(source: str, features: Features | None, execute: Execution, reading: ReadingOptions) -> JetPairs:
    """A training table on disk, or that of a fileset."""
    from hepcal.events.filesets import load_fileset
    from hepcal.tables.pairs import JetPairs

    if Path(source).is_dir():
        return JetPairs.open(Path(source))
    checked = load_fileset(source)
    with opened(*execute) as reading["executor"]:
        return JetPairs.from_fileset(checked, features, **reading)


def _terminate(*_: Any) -> None:
    """End as after an interrupt: workers are stopped, and what is half written is deleted."""
    sys.exit(128 + signal.SIGTERM)


def main() -> None:
    """Entry point: an error of ours is one message and exit code 1, never a traceback."""
    # What a batch system sends at the end of the time of a job.
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        app()
    except HepcalError as error:
        sys.stderr.write(f"hepcal: {error}\n")
        sys.exit(1)
    except OSError as error:  # an output that cannot be written, a scheduler that does not answer
        sys.stderr.write(f"hepcal: {type(error).__name__}: {error}\n")
        sys.exit(1)
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    main()
