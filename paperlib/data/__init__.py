"""Images: where they come from, how they are prepared once, and what a method may see of them."""
