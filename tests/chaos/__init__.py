"""Parts of a fleet die in every combination while a client checks every answer."""
