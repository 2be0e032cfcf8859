"""The gate, pure: paired evidence in; PASS, FAIL or INCONCLUSIVE out."""
