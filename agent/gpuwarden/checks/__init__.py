"""What is true now: one file per room, each a pure function from the node to verdicts."""
