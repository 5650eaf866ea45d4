"""Engines: what builds and runs each kind. `base` is the contract, `registry` the list; engines are imported when opened."""
