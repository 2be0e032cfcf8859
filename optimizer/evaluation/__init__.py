"""The one path of every model call: from examples to rollouts and scores, through cache, journal and budget."""
