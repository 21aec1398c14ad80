"""Commands that talk to a running gateway's admin plane; nothing here imports the parts that serve."""
