"""What keeps a run going: its folder, files, checkpoints, metrics, progress bars, interruptions,
and several hosts.
"""
