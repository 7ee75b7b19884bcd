"""All that knows wasmtime: engine, compiled components, fibers, values, the guard."""
