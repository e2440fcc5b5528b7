"""Seeded mutations of everything that the package reads: each input is read right, or refused in one line.

    kind.py        a case, and what its reader may do with it
    mutate.py      damage to bytes and to JSON, for every kind
    kinds.py       the list of kinds; each is a class in a module of its own
    driver.py      runs cases in worker processes, with a limit on time and memory
    __main__.py    ``make fuzz N=100000``; ``make fuzz KIND=images/jpeg SEED=123`` runs one case

A kind has an oracle of its own, which does not ask the reader: the pixels before a harmless change, Pillow alone, the
bytes of a TIFF; ONNX Runtime on the original; NumPy on the bytes of a tensor; the names that a list was made from.
"""
