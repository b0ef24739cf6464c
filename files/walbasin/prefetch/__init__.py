"""Keep the next segments ready: the prefetch process of one cluster."""
