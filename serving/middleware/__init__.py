"""What each request goes through on its way: who asks, how often, how many at once, and its log."""
