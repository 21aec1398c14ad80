"""What a gateway counts: names and labels, the blocks that hold the counts, and their text."""
