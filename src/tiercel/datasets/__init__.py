"""Traffic in: reading logs of every form, duplicates, workload templates, splits."""
