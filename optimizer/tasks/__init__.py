"""Tasks as they come in: folders of examples, read strictly, clustered and split by content."""
