"""Who answers a convolution problem, and how an answer is judged."""
