"""`icf-deploy verify`: whether a bundle is what was written, and safe to open."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from icf_deploy.cli.options import bundle_argument, digest_option, json_option
from icf_deploy.cli.terminal import show_json, show_lines, show_table

SHOWN_DIGITS = 12  # of a digest in a table


@click.command("verify", short_help="Check every byte of a bundle.")
@bundle_argument
@digest_option
@json_option
def command(bundle: Path | None, expect_digest: str | None, as_json: bool) -> None:
    """Check every byte of a bundle, and print what was checked.

    BUNDLE is a folder or one file; without it the shipped icf-edge. Every file is read, its length and SHA-256 are compared
    with the manifest, and what it holds is looked into; nothing in it is run. A bundle that is not what was written, or that
    a device should not open, ends with exit status 6; one of a newer format with 4.

    The hashes find accidents. Whoever can change the files can change the manifest, too: only a digest that you got another
    way tells who made the bundle (--expect-digest).
    """
    from icf_deploy.bundle.opening import open_bundle
    from icf_deploy.bundle.verification import verify_bundle

    opened = open_bundle(bundle, expect_digest=expect_digest)
    checked = verify_bundle(opened)
    if as_json:
        show_json(
            {
                "schema": "icf-verify 1",
                "path": str(opened.path),
                "digest": opened.digest,
                "expected_digest": expect_digest,
                "files": [asdict(file) for file in checked],
            }
        )
        return
    header = ("file", "bytes", "SHA-256")
    show_table([header, *((file.file, f"{file.bytes:,}", file.sha256[:SHOWN_DIGITS]) for file in checked)], str(opened.path))
    asked = "as asked" if expect_digest is not None else "compare it with the one that its author names"
    show_lines([f"{file.file}: {file.found}" for file in checked])
    show_lines([f"digest {opened.digest} ({asked})", f"{len(checked)} files are what was written, and nothing else is there"])
