"""How a case moves: from a fault to its proof, by safe transitions only. Pure."""
