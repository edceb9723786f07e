"""The runtime type checker of the tests; an int passes where a float is asked for, as PEP 484 has it."""

from beartype import BeartypeConf, beartype

tower = beartype(conf=BeartypeConf(is_pep484_tower=True))
