"""`python -m sandbagging`: the command line of the suite."""

from sandbagging.suite.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
