"""Whether a student's answer may be used: signals, gate, threshold, certificate."""
