"""Tools, and the registry through which alone a model gets at them."""
