"""The rewrites, in the order in which they run."""

from __future__ import annotations

from icf_deploy.export.lowering.attention_constants import cancel_constants
from icf_deploy.export.lowering.batch_norm import fold_batch_norm
from icf_deploy.export.lowering.batch_norm_forward import fold_batch_norm_forward
from icf_deploy.export.lowering.blur_padding import drop_blur_padding
from icf_deploy.export.lowering.first_block import fold_first_block
from icf_deploy.export.lowering.keys_on_map import move_keys_onto_map
from icf_deploy.export.lowering.layer_norm_affine import fold_layer_norm_affine
from icf_deploy.export.lowering.layer_norm_op import fuse_layer_norm
from icf_deploy.export.lowering.layer_scale import fold_layer_scale
from icf_deploy.export.lowering.level_projection import fold_level_projection
from icf_deploy.export.lowering.one_channel_input import feed_one_channel
from icf_deploy.export.lowering.palette import collapse_to_palette
from icf_deploy.export.lowering.position_tables import separate_axes
from icf_deploy.export.lowering.project_first import project_before_shuffle
from icf_deploy.export.lowering.query_constants import fold_query_constants
from icf_deploy.export.lowering.rewrite import GraphRewrite, NetworkRewrite
from icf_deploy.export.lowering.skip_norm import merge_skip_norm
from icf_deploy.export.lowering.skip_relu import narrow_relu
from icf_deploy.export.lowering.spectral_norm import fold_spectral_norm
from icf_deploy.export.lowering.split_expansion import split_expansion
from icf_deploy.export.lowering.transpose_chains import merge_transposes
from icf_deploy.export.lowering.unused_norm import drop_unused_norm

NETWORK_REWRITES = (
    NetworkRewrite("unused-norm", "drop the norm that nothing reads", drop_unused_norm),
    NetworkRewrite("spectral-norm", "divide the spectral norms out", fold_spectral_norm),
    NetworkRewrite("one-channel-input", "feed gray as it is, normalization inside the first weights", feed_one_channel),
    NetworkRewrite("batch-norm", "fold BatchNorms into the convolutions before them", fold_batch_norm),
    NetworkRewrite("skip-norm", "merge each skip's LayerNorm and BatchNorm", merge_skip_norm),
    NetworkRewrite("layer-norm-affine", "fold LayerNorm weights into the linear layers behind them", fold_layer_norm_affine),
    NetworkRewrite("layer-scale", "fold ConvNeXt's layer scale into pwconv2", fold_layer_scale),
    NetworkRewrite("palette", "multiply embeddings and fusion weights first: no map per query", collapse_to_palette),
    NetworkRewrite("batch-norm-forward", "fold BatchNorms behind a ReLU into what reads them", fold_batch_norm_forward),
    NetworkRewrite("skip-relu", "apply ReLU to the skip alone", narrow_relu),
    NetworkRewrite("layer-norm-op", "write channel-first LayerNorms as one operator", fuse_layer_norm),
    NetworkRewrite("project-first", "project onto ab before the shuffle and the blur", project_before_shuffle),
    NetworkRewrite("split-expansion", "cut the expansion before the last shuffle into pieces", split_expansion),
    NetworkRewrite("attention-constants", "cancel constants in keys, move those in values into the output", cancel_constants),
    NetworkRewrite("keys-on-map", "keys as 1x1 convolutions of the map", move_keys_onto_map),
    NetworkRewrite("position-tables", "positions as one small table per axis", separate_axes),
    NetworkRewrite(
        "level-projection", "fold a level's projection into its keys and values where it saves", fold_level_projection
    ),
    NetworkRewrite("query-constants", "query positions and 1/sqrt(d) into tables and weights", fold_query_constants),
    NetworkRewrite("first-block", "what the first block does before it sees the photo", fold_first_block),
)

GRAPH_REWRITES = (
    GraphRewrite("transpose-chains", "make one permutation of two", merge_transposes),
    GraphRewrite("blur-padding", "leave the border out of the blur's average instead of replicating it", drop_blur_padding),
)
