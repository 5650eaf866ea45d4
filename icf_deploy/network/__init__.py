"""The network in PyTorch: Backbone, ImageDecoder, ColorDecoder, Fusion. Needs torch (extra `export` or `train`)."""
