"""The colour decoder block: learned queries look at three scales and at each other (DDColor, section 3.3; DETR).

Both families use the same decoder at different widths. Parameter names are those of the official DDColor files below
`decoder.color_decoder.`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from icf_deploy.network.layers import Attention, sine_position


class CrossAttention(nn.Module):
    """Queries look at one scale; residual and post-norm."""

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.multihead_attn = Attention(channels, heads, dropout)
        self.norm = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, state: Tensor, query_position: Tensor, tokens: Tensor, position: Tensor) -> Tensor:
        """state [N,Q,C], tokens [N,T,C] -> [N,Q,C]."""
        seen = self.multihead_attn(state + query_position, tokens + position, tokens)
        out: Tensor = self.norm(state + self.dropout(seen))
        return out


class SelfAttention(nn.Module):
    """Queries look at each other; residual and post-norm."""

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = Attention(channels, heads, dropout)
        self.norm = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, state: Tensor, query_position: Tensor) -> Tensor:
        """[N,Q,C] -> [N,Q,C]."""
        query = state + query_position
        out: Tensor = self.norm(state + self.dropout(self.self_attn(query, query, state)))
        return out


class FeedForward(nn.Module):
    """Two linear layers with ReLU between; residual and post-norm."""

    def __init__(self, channels: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(channels, hidden)
        self.linear2 = nn.Linear(hidden, channels)
        self.norm = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, state: Tensor) -> Tensor:
        """[N,Q,C] -> [N,Q,C]."""
        out: Tensor = self.norm(state + self.dropout(self.linear2(self.dropout(F.relu(self.linear1(state))))))
        return out


class QueryHead(nn.Module):
    """Three linear layers with ReLU between: query state to colour embedding."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Linear(channels, channels), nn.Linear(channels, channels), nn.Linear(channels, out_channels)]
        )

    def forward(self, state: Tensor) -> Tensor:
        """[N,Q,C] -> [N,Q,C']."""
        for layer in self.layers[:-1]:
            state = F.relu(layer(state))
        out: Tensor = self.layers[-1](state)
        return out


class ColorDecoder(nn.Module):
    """Levels [N,C_l,H_l,W_l] -> colour embeddings E [N,Q,embedding].

    `blocks` rounds of cross-attention, self-attention and feed-forward; round i looks at level i mod 3.
    """

    def __init__(
        self,
        level_channels: tuple[int, ...],
        *,
        channels: int,
        heads: int,
        hidden: int,
        queries: int,
        blocks: int,
        embedding: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.query_feat = nn.Embedding(queries, channels)
        self.query_embed = nn.Embedding(queries, channels)
        self.level_embed = nn.Embedding(len(level_channels), channels)
        self.input_proj = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in level_channels)
        self.transformer_cross_attention_layers = nn.ModuleList(CrossAttention(channels, heads, dropout) for _ in range(blocks))
        self.transformer_self_attention_layers = nn.ModuleList(SelfAttention(channels, heads, dropout) for _ in range(blocks))
        self.transformer_ffn_layers = nn.ModuleList(FeedForward(channels, hidden, dropout) for _ in range(blocks))
        self.decoder_norm = nn.LayerNorm(channels)
        self.color_embed = QueryHead(channels, embedding)

    def forward(self, levels: tuple[Tensor, ...]) -> Tensor:
        """Three levels -> E [N,Q,embedding]."""
        tokens, positions = [], []
        for i, (level, project) in enumerate(zip(levels, self.input_proj, strict=True)):
            height, width = level.shape[-2:]
            tokens.append(project(level).flatten(2).transpose(1, 2) + self.level_embed.weight[i])
            positions.append(sine_position(height, width, self.query_feat.embedding_dim).to(level))
        batch = levels[0].shape[0]
        state = self.query_feat.weight.expand(batch, -1, -1)
        query_position = self.query_embed.weight.expand(batch, -1, -1)
        rounds = zip(
            self.transformer_cross_attention_layers,
            self.transformer_self_attention_layers,
            self.transformer_ffn_layers,
            strict=True,
        )
        for i, (cross, among, feed) in enumerate(rounds):
            level_index = i % len(levels)
            state = cross(state, query_position, tokens[level_index], positions[level_index])
            state = feed(among(state, query_position))
        embeddings: Tensor = self.color_embed(self.decoder_norm(state))
        return embeddings
