"""The parts of a network that a recipe names: eight, the same eight in both families.

| block | icf-edge | DDColor |
|---|---|---|
| backbone.0 | up to H/4: stem, blocks 0 to 2 | stem and stage 0 |
| backbone.1 | H/8: blocks 3 and 4 | stage 1 |
| backbone.2 | H/16: blocks 5 to 10 | stage 2 |
| backbone.3 | H/32: blocks 11 to 15 | stage 3 |
| image_decoder.coarse | bottleneck and the block to H/16 | the blocks to H/16 and H/8 |
| image_decoder.fine | the blocks to H/8 and H/4 | the block to H/4 |
| color_decoder | queries, attention, embeddings | the same |
| fusion | palette, last upsampling, gray term | the same |
"""

from __future__ import annotations

from icf_deploy.errors import ArtefactError

BLOCKS = (
    "backbone.0",
    "backbone.1",
    "backbone.2",
    "backbone.3",
    "image_decoder.coarse",
    "image_decoder.fine",
    "color_decoder",
    "fusion",
)
_EDGE_LAST_BLOCK = (2, 4, 10)  # the last of the backbone's blocks at H/4, H/8 and H/16
_INTO_NEXT = ("downs", "down_norms")  # lowered ConvNeXt: number N leads into stage N + 1
_LAST_STAGE = 3


def block_of(key: str) -> str:
    """The block of a node, by its key (`nodes.node_keys`). ArtefactError for a key of no known network."""
    parts = key.partition("/")[0].split(".")
    block = _block(parts)
    if block is None:
        raise ArtefactError(f"no block of a known network has a node {key!r}: blocks are {', '.join(BLOCKS)}")
    return block


def _block(parts: list[str]) -> str | None:
    top = parts[0]
    if top in ("color_decoder", "fusion"):
        return top
    if top == "backbone":
        return f"backbone.{_stage(parts[1:])}"
    if top == "image_decoder":
        if len(parts) > 2 and parts[1] == "blocks":  # noqa: PLR2004  # image_decoder.blocks.N
            return BLOCKS[4] if parts[2] == "0" else BLOCKS[5]
        if len(parts) > 2 and parts[1] == "layers":  # noqa: PLR2004  # image_decoder.layers.N
            return BLOCKS[5] if parts[2] == "2" else BLOCKS[4]
        return BLOCKS[4]
    return None


def _stage(parts: list[str]) -> int:
    """Stage of a node inside the backbone; what stands before all stages is part of the first."""
    if not parts:
        return 0
    name, _, digits = parts[0].partition("norm")
    if not name and digits.isdigit():  # norm2, ConvNeXt's norm of a skip
        return int(digits)
    if len(parts) == 1 or not parts[1].isdigit() or parts[0] in ("stem", "stem_norm"):
        return 0
    number = int(parts[1])
    if parts[0] == "blocks":
        return sum(number > last for last in _EDGE_LAST_BLOCK)
    return min(number + (parts[0] in _INTO_NEXT), _LAST_STAGE)
