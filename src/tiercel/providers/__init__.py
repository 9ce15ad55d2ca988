"""The world outside: what models cost, and the APIs that serve them."""
