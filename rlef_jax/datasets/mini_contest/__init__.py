"""The mini contest: generated problems that a tiny model can learn from nothing on a CPU.

`families` says what can be asked, `problems` draws problems, and `builder` stores them.
"""
