"""``metaspo simulate``: error rates of the gate and of whole searches, measured in simulated worlds."""
