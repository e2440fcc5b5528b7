"""Seeded mutations of everything that the package reads: each input is read right, or refused in one line.

kind.py        a case, and what its reader may do with it
mutate.py      damage to bytes and to JSON, for every kind
kinds.py       the list of kinds
driver.py      runs cases in worker processes, with a limit on time and memory
__main__.py    ``make fuzz N=100000``; ``make fuzz KIND=jpeg SEED=123`` runs one case
"""
