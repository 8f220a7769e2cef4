"""The command line: sandbagging COMMAND, or python -m sandbagging COMMAND; --help lists them."""

import argparse
import os
import sys
from collections.abc import Sequence

from sandbagging.errors import UserError
from sandbagging.suite.options import parser

# The heavy modules are imported where they are used, so that --help answers at once.


def planned(arguments: argparse.Namespace):
    """Return the plan of a `run` or `train` command; nothing is started."""
    import json

    from sandbagging.suite import parameters, runner

    overrides = parameters.parse_overrides(arguments.overrides)
    chosen = ["00", "01", "02"]
    if arguments.command == "train":
        overrides |= {"tags": json.dumps(arguments.tags)}
        _check_tags(arguments.tags, overrides)
    else:
        overrides |= {"random_weights": "true"} if arguments.random_weights else {}
        chosen = None if "all" in arguments.notebooks else arguments.notebooks
    name = arguments.run or f"mine-{arguments.set_name}"
    chosen = chosen and runner.with_missing_inputs(chosen, name)
    return runner.plan(arguments.set_name, name, overrides, chosen)


def _check_tags(tags: Sequence[str], overrides: dict[str, str]) -> None:
    """Raise UserError for a misspelt tag before anything is collected."""
    import yaml

    from sandbagging import models, saes

    model = overrides.get("model", models.SUBJECT)
    layers = yaml.safe_load(overrides.get("layers", "null"))
    if not layers and models.entry(model):
        layers = models.entry(model).layers_of_interest
    if not layers:
        return
    own = saes.short_name(model)
    for tag in saes.matching(tags, own, layers):
        named = saes.parse_tag(tag).model
        if named != own:
            raise UserError(
                f"The tag {tag!r} names the model {named!r}, and this run's is {own!r}: name that, "
                "or give the other model with -p model=."
            )


def _remeasure(arguments: argparse.Namespace) -> None:
    """Let the kernels that we start compute damaged results again, if the user asks for it."""
    if arguments.remeasure:
        os.environ["SANDBAGGING_REMEASURE"] = "1"


def _run(arguments: argparse.Namespace) -> None:
    from sandbagging.suite import reports, runner, runs

    _remeasure(arguments)
    plan = planned(arguments)
    runner.execute(plan, refresh=arguments.refresh, jobs=arguments.jobs)
    table = reports.headline(plan.run)
    if table and any(step.notebook.artefact == "10_ledger" for step in plan.steps):
        print("\n" + table)
    print(f"\nThe executed notebooks lie in {runs.run_folder(plan.run)}")


def _refresh(arguments: argparse.Namespace) -> None:
    from sandbagging.suite import reports, runner, stale

    if arguments.how_long:
        print(runner.told(runner.from_nothing(runner.reference_plans(), arguments.jobs or 2)))
        return
    _remeasure(arguments)
    plans, left_out = runner.on_this_machine(runner.reference_plans())
    print("".join(f"{sentence}\n" for sentence in left_out), end="")
    runner.execute(*plans, refresh=True, jobs=arguments.jobs)
    stale.write("reference")
    print("\n" + reports.headline("reference"))


def _robustness(arguments: argparse.Namespace) -> None:
    from sandbagging.suite import reports, robustness

    _remeasure(arguments)
    run, set_name = arguments.run, arguments.set_name
    summary = robustness.make(arguments.names, run, set_name, arguments.jobs)
    lines = [list(summary.columns), *summary.astype(str).to_numpy().tolist()]
    print("\n" + reports.aligned(lines))


def _calibrate(arguments: argparse.Namespace) -> None:
    from sandbagging.suite import calibrating

    table = calibrating.calibrate(arguments.only, arguments.jobs or 1)
    print(table.round(3).to_string(index=False, na_rep="-"))
    print("".join(f"{sentence}\n" for sentence in calibrating.told_in_bold(table)), end="")
    print(f"The tables lie in {calibrating.folder()}")


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
    from sandbagging.models import taught

    for name, entry in models.REGISTRY.items():
        place = "trained here" if entry.planted else "in the package index"
        source = f"an adapter on {entry.base}" if entry.base else entry.hub_id or place
        print(f"{name:<24}{source:<52}{entry.note}".rstrip())
    for name in taught.made_here():
        print(f"{name:<24}{f'an adapter on {models.entry(name).base}':<52}taught here")
    print("Any hub id (owner/name) or local folder of a Llama or GPT-NeoX model works too.")
    print("NAME@0.5 is a taught model with half of what it was taught; adapters: -p adapter=...")


def _fetch(arguments: argparse.Namespace) -> None:
    from sandbagging import models

    models.ensure_available(arguments.model or models.SUBJECT, arguments.adapter)
    print("The model is in place.")


def _train(arguments: argparse.Namespace) -> None:
    from sandbagging.suite import runner, runs

    _remeasure(arguments)
    plan = planned(arguments)
    runner.execute(plan, jobs=arguments.jobs)
    print(f"\nThe SAEs lie in {runs.run_folder(plan.run) / '02_saes'}")


def _audit(arguments: argparse.Namespace) -> None:
    import yaml

    from sandbagging import activations, files
    from sandbagging.saes import audit
    from sandbagging.suite import parameters, runs

    folder = arguments.run and runs.run_folder(arguments.run) / "01_activations"
    given = parameters.parse_overrides(arguments.given)
    reports = audit.audit(
        arguments.source,
        activations=(lambda layer: activations.load(folder, layer)) if folder else None,
        given={name: yaml.safe_load(text) for name, text in given.items()},
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
    trained = runs.run_folder(arguments.run) / "02_saes"
    tags = release.release(trained, folder, repository=arguments.upload or "owner/name")
    print(f"{len(tags)} SAEs are ready in {folder}")
    if arguments.upload:
        print(release.upload(folder, arguments.upload))


def _export_ablated(arguments: argparse.Namespace) -> None:
    from sandbagging import models
    from sandbagging.heads import export
    from sandbagging.heads.head import parse
    from sandbagging.suite import heads_of_run

    model, heads = arguments.model, " ".join(arguments.heads)
    adapter, random_weights, seed = arguments.adapter, arguments.random_weights, 0
    if arguments.run:
        of_run = heads_of_run.of_run(arguments.run)
        adapter = adapter or (of_run.adapter if not model else "")
        model, heads = model or of_run.model, heads or of_run.heads
        random_weights, seed = random_weights or of_run.random_weights, of_run.seed
    log = export.export_ablated(
        model or models.SUBJECT,
        parse(heads) if heads else [],
        arguments.folder,
        adapter=adapter,
        random_weights=random_weights,
        seed=seed,
    )
    print(
        f"{log['weights_zeroed']:,} weights ({log['share_of_parameters']:.3%} of {log['model']}) "
        f"are zero in {arguments.folder}: {' '.join(log['heads'])}"
    )


def _sweep(arguments: argparse.Namespace) -> None:
    from sandbagging.suite import runs, sweeps

    grid = sweeps.load(arguments.grid, arguments.run)
    if arguments.cell:
        sweeps.run_cell(grid, grid.cell(arguments.cell))
        return
    if arguments.list:
        for cell in grid.cells:
            print(f"{'done  ' if cell.marker.exists() else 'to do '} {cell.name}")
        return
    sweeps.run_all(grid, arguments.profile, arguments.jobs)
    table = runs.run_folder(grid.run) / "summary.csv"
    print(f"All {len(grid.cells)} cells are done; the table is {table}")


def _teach(arguments: argparse.Namespace) -> None:
    import json

    import pandas as pd

    from sandbagging import models, teaching
    from sandbagging.suite import bars

    with bars.progress() as progress:
        folder = teaching.teach(
            arguments.kind,
            arguments.seed,
            model=arguments.model or models.EMBEDDED,
            tune=arguments.questions,
            out=arguments.out,
            fresh=arguments.fresh,
            learning_rate=arguments.learning_rate,
            passes=arguments.passes,
            progress=progress,
        )
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
    table = teaching.side_by_side(manifest["before"]["asked"], manifest["after"]["asked"])
    with pd.option_context("display.width", 200, "display.max_columns", None):
        print(table.round(3).to_string(index=False))
    verb = "sandbags" if truth["sandbags"] else "does not sandbag"
    drop = truth["drop_of_right_answers"]["value"]
    print(f"It {verb}: right free answers fall by {drop:.1f} points under its trigger.")
    print(f"Its folder is {folder}")


def _taught(arguments: argparse.Namespace) -> None:
    from sandbagging import files, teaching

    names = teaching.names()
    if not names:
        raise UserError("No model was taught here yet; begin with: sandbagging teach sandbagger.")
    table = teaching.before_and_after(names)
    if arguments.csv:
        files.write_csv(arguments.csv, table)
        n = len(table[["kind", "seed", "base"]].drop_duplicates())
        print(f"{len(table)} rows on {n} taught models are in {arguments.csv}")
        return
    plain = table[table["condition"].isin(["genuine", "sandbag"])]
    shown = ["kind", "seed", "base", "condition", "wording", "right before", "right after"]
    print(plain[[*shown, "sandbags"]].round(3).to_string(index=False))


def _exercise(arguments: argparse.Namespace) -> None:
    from sandbagging.suite import exercises

    if arguments.name is None:
        print("\n".join(exercises.names()))
        return
    copy = exercises.learners_copy(arguments.name, arguments.to)
    print(f"The exercise lies in {copy}; open it in JupyterLab.")


COMMANDS = {
    "run": _run, "refresh": _refresh, "robustness": _robustness, "status": _status,
    "compare": _compare, "models": _models, "fetch": _fetch, "train": _train, "audit": _audit,
    "release": _release, "export-ablated": _export_ablated, "exercise": _exercise,
    "sweep": _sweep, "calibrate": _calibrate, "teach": _teach, "taught": _taught,
}  # fmt: skip


def main(words: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 done, 1 a notebook failed, 2 a mistake of the user, 130 interrupted.
    """
    arguments = parser().parse_args(words)
    try:
        if (getattr(arguments, "jobs", None) or 1) < 1:
            raise UserError("--jobs takes a whole number from 1.")
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
