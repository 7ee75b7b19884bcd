"""The contract as Python: the records, enums and functions that componentize-py generates from `wit/plexspaces-actor`.

In the sandbox componentize-py brings its own, live copy; this one gives `plexspaces.testing` the same shapes on plain
CPython and lets a test see that contract and SDK agree.  `generate` is how it is made anew:

    python -m plexspaces._bindings wit/plexspaces-actor sdk/plexspaces/_bindings
"""
