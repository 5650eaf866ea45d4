"""Backbones: gray [N,1,H,W] in, a pyramid of skip features out."""
