"""The server that stands where the frontier stood: answers from a student where that is safe, escalates the rest."""
