"""`python -m plexspaces_runtime.cli`: the command line without its console script."""

from . import main

main()
