"""What a model answers, asked once, kept and graded."""
