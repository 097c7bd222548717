"""Figures of episodes, and whole evaluations: solve rates with intervals, players, tables on disk
and on screen.
"""
