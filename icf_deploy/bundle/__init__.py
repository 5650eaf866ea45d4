"""The bundle, which is what gets shipped; docs/bundle.md is its specification.

`manifest` says what it holds, `opening` opens it, `store` writes it, `packing` turns one form into the other, `verification`
checks it from end to end. `folder` and `archive` read the two forms, `graph_check` looks into graphs before an engine does.
"""
