"""Plans of runs: which programs they compile, what these cost, and on which chips they fit."""
