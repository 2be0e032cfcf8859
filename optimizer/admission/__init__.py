"""Who may run: every proposed prompt is linted and compared before a single base call is spent on it."""
