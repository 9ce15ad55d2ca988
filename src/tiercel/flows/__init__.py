"""The stories: what a user does from start to end, each reading from top to bottom."""
