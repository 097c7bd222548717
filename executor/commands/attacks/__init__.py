"""Real attacks on what runs programs, for `python -m executor doctor` and for the tests.

Each is a program that tries something and prints 2, the right answer, if that was refused;
otherwise it prints what was not refused. Where the executor has to end a program, the verdict
itself shows that the attack was contained. All are bounded, and harmless where nothing stops them:
they ask whether they may signal processes of others, but never end one.
"""

from executor.commands.attacks.attack import LIMITS, Attack
from executor.commands.attacks.data import DATA
from executor.commands.attacks.processes import PROCESSES
from executor.commands.attacks.resources import RESOURCES

__all__ = ["ATTACKS", "LIMITS", "Attack"]

ATTACKS: tuple[Attack, ...] = RESOURCES + PROCESSES + DATA
