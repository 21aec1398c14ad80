"""turnout beside its peers in one run: CPU per request, requests a core, added latency, memory, as ratios."""
