"""Parts that networks of every family use unchanged."""
