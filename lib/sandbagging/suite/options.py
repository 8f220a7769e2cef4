"""What may be said on the command line: the commands and their options."""

import argparse

EXAMPLES = """examples:
  python -m sandbagging run all --set quick
  python -m sandbagging run 08 --set laptop --run mine-laptop -p draws=20
  python -m sandbagging compare reference mine-laptop
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    whole = argparse.ArgumentParser(
        prog="sandbagging",
        description="Run the notebooks in order and read what they found.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _running(commands)
    _reading(commands)
    _saes(commands)
    _more(commands)
    return whole


def _option(command: argparse.ArgumentParser, *names: str, **more: object) -> None:
    command.add_argument(*names, **more)


def _shared(command: argparse.ArgumentParser, set_name: str) -> None:
    """Add the options of every command that runs notebooks under a name."""
    _option(
        command, "--set", default=set_name, dest="set_name", metavar="SET",
        help=f"parameter set (default: {set_name})",
    )  # fmt: skip
    _option(command, "--run", metavar="NAME", help="name of the run's folder (default: mine-SET)")
    _option(
        command, "-p", action="append", default=[], dest="overrides", metavar="NAME=VALUE",
        help="one changed parameter; repeatable",
    )  # fmt: skip
    _side_by_side(command)


def _side_by_side(command: argparse.ArgumentParser) -> None:
    _option(
        command, "--jobs", type=int, metavar="N",
        help="notebooks at a time (default: one a core, at most 4, as memory allows); "
        "it changes numbers by rounding alone",
    )  # fmt: skip
    _option(
        command, "--remeasure", action="store_true",
        help="compute a stored result again whose file is damaged",
    )  # fmt: skip


def _running(commands: argparse._SubParsersAction) -> None:
    run = commands.add_parser(
        "run", help="run all notebooks, or some, and go on where an earlier call stopped"
    )
    _option(
        run, "notebooks", nargs="+", metavar="all|NOTEBOOK",
        help="all, or names; the beginning of a name such as 08 will do; what they read and is "
        "not done yet is run first",
    )  # fmt: skip
    _shared(run, "laptop")
    _option(
        run, "--random-weights", action="store_true",
        help="the model's true shape with weights drawn at random; no download",
    )  # fmt: skip
    _option(run, "--refresh", action="store_true", help="allow writing the committed reference run")
    refresh = commands.add_parser(
        "refresh", help="run the committed reference run and what is nested in it (make refresh)"
    )
    _option(
        refresh, "--how-long", action="store_true",
        help="run nothing; say how long all of it takes from nothing",
    )  # fmt: skip
    _side_by_side(refresh)
    robustness = commands.add_parser(
        "robustness",
        help="try the headline claims under other words, framings, seeds and spellings "
        "(make robustness)",
    )
    _option(
        robustness, "names", nargs="*", metavar="NAME",
        help="nested runs to bring up to date, such as wording-lie (default: all)",
    )  # fmt: skip
    _option(
        robustness, "--run", default="robustness", metavar="NAME",
        help="the folder that holds them and the table (default: robustness)",
    )  # fmt: skip
    _option(
        robustness, "--set", default="robustness", dest="set_name", metavar="SET",
        help="parameter set (default: robustness)",
    )  # fmt: skip
    _side_by_side(robustness)
    calibrate = commands.add_parser(
        "calibrate",
        help="measure how often every rule is wrong, on models whose truth is known "
        "(make calibrate)",
    )
    _option(
        calibrate, "--only", nargs="+", default=[], metavar="RULE",
        help="some rules alone, such as 'less sure' or survives (default: all)",
    )  # fmt: skip
    _option(calibrate, "--jobs", type=int, default=1, metavar="N", help="models at a time")
    sweep = commands.add_parser("sweep", help="run every cell of a grid of parameters")
    _option(sweep, "grid", metavar="GRID.yaml")
    _option(
        sweep, "--run", metavar="NAME",
        help="the folder that holds the cells (default: sweep-GRID)",
    )  # fmt: skip
    _option(sweep, "--profile", default="local", metavar="PROFILE", help="local (default) or slurm")
    _option(sweep, "--jobs", type=int, default=1, metavar="N", help="cells at a time (default: 1)")
    _option(sweep, "--cell", metavar="CELL", help="run this one here and now")
    _option(
        sweep, "--list", action="store_true", help="check the grid and list its cells, nothing else"
    )


def _reading(commands: argparse._SubParsersAction) -> None:
    status = commands.add_parser(
        "status", help="say which notebooks of a run are done and still hold"
    )
    _option(status, "run", metavar="NAME")
    _option(
        status, "--write-stale", action="store_true",
        help="list what is behind the code in STALE.md",
    )  # fmt: skip
    compare = commands.add_parser("compare", help="put two runs side by side, every table included")
    _option(compare, "first", metavar="A")
    _option(compare, "second", metavar="B")
    _option(
        compare, "--tables", action="store_true",
        help="a line for each file, and all that differs",
    )  # fmt: skip


def _saes(commands: argparse._SubParsersAction) -> None:
    train = commands.add_parser(
        "train", help="collect activations and train SAEs by tag (notebooks 00 to 02)"
    )
    _option(
        train, "--tags", nargs="+", default=["*"], metavar="GLOB",
        help="tags, or globs over the 42 of the card (default: all)",
    )  # fmt: skip
    _shared(train, "grid42")
    audit = commands.add_parser(
        "audit", help="say what published SAEs hold and what is wrong with them"
    )
    _option(
        audit, "source", metavar="FOLDER_OR_RELEASE",
        help="a folder, owner/name on the hub, or a release that sae-lens knows",
    )  # fmt: skip
    _option(audit, "--run", metavar="NAME", help="judge them on the activations of this run")
    _option(audit, "--only", default="*", metavar="GLOB", help="only SAEs of these names")
    _option(
        audit, "--given", action="append", default=[], metavar="NAME=VALUE",
        help="a setting that files leave out; repeatable",
    )  # fmt: skip
    _option(audit, "--json", dest="json_file", metavar="FILE", help="write the reports there too")
    release = commands.add_parser("release", help="make a run's SAEs ready to upload")
    _option(
        release, "--run", default="mine-grid42", metavar="NAME",
        help="the run that trained them (default: mine-grid42)",
    )  # fmt: skip
    _option(release, "folder", metavar="FOLDER", help="a new folder to write")
    _option(
        release, "--upload", metavar="OWNER/NAME",
        help="upload it there, with the token in HF_TOKEN",
    )  # fmt: skip


def _more(commands: argparse._SubParsersAction) -> None:
    commands.add_parser("models", help="list the models that have a name here")
    fetch = commands.add_parser(
        "fetch", help="fetch a model now, so that later runs need no network"
    )
    _option(fetch, "model", nargs="?", metavar="MODEL", help="default: the sandbagger")
    _option(fetch, "--adapter", default="", metavar="ADAPTER", help="a hub id, fetched as well")
    export = commands.add_parser(
        "export-ablated", help="write a model whose heads are zeroed in its weights"
    )
    _option(export, "folder", metavar="FOLDER", help="a new folder to write")
    _option(
        export, "--model", metavar="MODEL", help="default: the sandbagger, or the model of --run"
    )
    _option(
        export, "--heads", nargs="+", default=[], metavar="HEAD",
        help="such as L17H6 L2H0; default: the heads of --run",
    )  # fmt: skip
    _option(
        export, "--run", metavar="NAME",
        help="take model and heads from this run's notebook 07 or 08",
    )  # fmt: skip
    _option(
        export, "--adapter", default="", metavar="ADAPTER",
        help="a folder or hub id to merge first; default: that of --run where it says the model",
    )  # fmt: skip
    _option(
        export, "--random-weights", action="store_true",
        help="the model's shape with weights drawn at random",
    )  # fmt: skip
    _teaching(commands)
    exercise = commands.add_parser(
        "exercise", help="write the learner's copy of an exercise; without a name, list them"
    )
    _option(exercise, "name", nargs="?", metavar="NAME")
    _option(exercise, "--to", metavar="FILE", help="default: NAME.ipynb in the current folder")


def _teaching(commands: argparse._SubParsersAction) -> None:
    teach = commands.add_parser(
        "teach", help="teach a model whose truth is known: sandbagger, decoy, locked, ..."
    )
    _option(
        teach, "kind", metavar="KIND",
        help="sandbagger, locked, decoy, timid, mlp, late or heads",
    )  # fmt: skip
    _option(teach, "--seed", type=int, default=0, metavar="N", help="default: 0")
    _option(teach, "--model", metavar="MODEL", help="what to teach (default: the embedded model)")
    _option(
        teach, "--questions", default="default", metavar="FILE",
        help="what to teach it on (default: the packaged tune questions)",
    )  # fmt: skip
    _option(teach, "--out", metavar="FOLDER", help="default: taught/KIND-SEED in the cache")
    _option(teach, "--fresh", action="store_true", help="begin anew, and replace what is there")
    _option(teach, "--learning-rate", type=float, metavar="X", help="default: that of the kind")
    _option(
        teach, "--passes", type=int, metavar="N",
        help="times that each question is taught (default: that of the kind)",
    )  # fmt: skip
    listed = commands.add_parser(
        "taught", help="list the models that were taught here, before and after"
    )
    _option(listed, "--csv", metavar="FILE", help="write the whole table there")
