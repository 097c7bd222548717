"""CodeContests, prepared once from the files that its user has downloaded: `python -m
rlef_jax.datasets prepare code_contests`.

`sources` reads the files, in any of the layouts the data set is handed round in, and `records`
turns a row into the one record that is stored; `prepare` writes the data set and `stored` reads it.
`riegeli`, `transposed`, `highwayhash` and `wire` are the layers of the original files, from the
outermost to the innermost.
"""
