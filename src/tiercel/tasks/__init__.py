"""What kind of answer a workload wants, and how two answers are compared."""
