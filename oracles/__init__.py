"""Who answers a convolution problem, and how an answer is judged."""

from oracles.adapt import oracle
from oracles.protocol import Box, Domain

__all__ = ["Box", "Domain", "oracle"]
