"""`icf-deploy pack`: a bundle as one file, and back."""

from __future__ import annotations

from pathlib import Path

import click

from icf_deploy.cli.options import PATH, bundle_argument, digest_option, json_option, overwrite_option
from icf_deploy.cli.terminal import show_json, show_lines


@click.command("pack", short_help="Write a bundle as one file, or back as a folder.")
@bundle_argument
@click.option("-o", "--output", type=PATH, required=True, metavar="OUT", help="File to write; with --unpack a folder.")
@click.option("--unpack", is_flag=True, help="Write the folder form.")
@digest_option
@overwrite_option
@json_option
def command(
    *, bundle: Path | None, output: Path, unpack: bool, expect_digest: str | None, overwrite: bool, as_json: bool
) -> None:
    """Write a bundle as one file, or back as a folder.

    BUNDLE is a folder or one file; without it the shipped icf-edge. It is verified first. Both forms have the same digest and
    are used alike; the same bundle makes the same file, byte for byte.
    """
    from icf_deploy.bundle import packing
    from icf_deploy.bundle.opening import open_bundle

    write = packing.unpack if unpack else packing.pack
    written = write(open_bundle(bundle, expect_digest=expect_digest), output, overwrite=overwrite)
    if as_json:
        show_json({"schema": "icf-pack 1", "path": str(written.path), "digest": written.digest, "form": _form(unpack)})
    else:
        show_lines([f"{written.path} ({_form(unpack)}), digest {written.digest}"])


def _form(unpack: bool) -> str:
    return "folder" if unpack else "file"
