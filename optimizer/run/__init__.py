"""What one run keeps: its journal, its name, what it has spent, which holdout examples it used up."""
