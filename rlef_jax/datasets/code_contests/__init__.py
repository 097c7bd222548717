"""CodeContests, prepared once by `python -m rlef_jax.datasets prepare code_contests`.

`sources` finds and reads the downloaded files, `records` turns a row into the record that is
stored, `prepare` writes the data set and `stored` reads it.
"""
