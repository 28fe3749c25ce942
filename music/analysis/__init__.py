"""Notes → what can be counted and compared of them."""
